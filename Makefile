# `make demo` and `make test` are all that a newcomer needs; both create .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Most tests wait for Envoys, browsers and disks: two at a time take half as long, and leave each enough of two cores.
WORKERS ?= 2
PAGE := rollout/web/dist/manifest.json

.PHONY: demo page docs test lint audit check format bench releases gates soak chaos serve clean
.DEFAULT_GOAL := test

$(INSTALLED): pyproject.toml hatch_build.py build_page.py
	@echo "installing into $(VENV) ..."
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
		uv pip install --quiet --python $(BIN)/python --compile-bytecode -e '.[dev]'; \
	else \
		$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; \
	fi
	@touch $@

demo: $(INSTALLED) $(PAGE)  ## a good version goes out, a broken one comes back, on real Envoys (KEEP=1: leave it running)
	$(BIN)/python -m rollout.demo $(if $(KEEP),--keep)

page: $(INSTALLED)  ## the web page again, from rollout/web/src (a server reads it when it starts)
	$(BIN)/python build_page.py

$(PAGE): $(INSTALLED) $(wildcard rollout/web/*.json rollout/web/src/*.* rollout/web/src/*/*.*)
	@if $(BIN)/python build_page.py; then touch $@; fi

test: $(INSTALLED) $(PAGE)  ## all tests, with real Envoys
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(INSTALLED)  ## style, types and floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if command -v npm >/dev/null 2>&1; then $(BIN)/python build_page.py check; else echo "no npm: the page's types are not checked"; fi

audit: $(INSTALLED)  ## known traps in the code (bandit), and known holes in what it depends on (pip-audit)
	$(BIN)/bandit -q -c pyproject.toml -r xds rollout
	@found=$$($(BIN)/pip-audit --progress-spinner off --skip-editable 2>&1); ended=$$?; \
	unknown=$$(echo "$$found" | grep -c 'could not be audited'); \
	echo "$$found" | sed '/Skip Reason/,$$d'; \
	if [ "$$unknown" != 0 ]; then \
		echo "WARNING: $$unknown packages are NOT audited: this package index serves no advisories; try $(BIN)/pip-audit -s osv" >&2; \
	fi; \
	exit $$ended

docs: $(INSTALLED)  ## the documentation as a site, in site/
	NO_COLOR=1 $(BIN)/zensical build --clean --strict
	@echo "open site/index.html"

check: lint audit test  ## everything that CI does

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)  ## what docs/performance.md claims: an idle server, changes, stats, and a hundred proxies (four minutes)
	$(BIN)/python bench/idle.py
	$(BIN)/python bench/compile.py
	$(BIN)/python bench/scrape.py
	$(BIN)/python bench/fanout.py --proxies 100

releases: $(INSTALLED)  ## good and bad releases of every kind, on real Envoys under load (half an hour)
	$(BIN)/python bench/releases.py

gates: $(INSTALLED)  ## the judge beside Flagger's, Argo's and others' on simulated traffic (two minutes; docs/gates.md)
	$(BIN)/python bench/gates.py

soak: $(INSTALLED)  ## 1,000 changes of weights, 200 of clusters and 50 killed servers under load (ten minutes)
	$(BIN)/python bench/soak.py

chaos: $(INSTALLED)  ## 50 killed servers under rollouts of every kind (six minutes; SEED=n), and faults that CI cannot make
	CHAOS=1 $(BIN)/python -m pytest tests/chaos
	$(BIN)/python bench/chaos.py --seed $(or $(SEED),1)

serve: $(INSTALLED) $(PAGE)  ## a server on ./envoy-configs and ./data
	$(BIN)/rollout serve

clean:
	rm -rf $(VENV) dist xds/envoy_api.binpb rollout/web/dist rollout/web/node_modules
