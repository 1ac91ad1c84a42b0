"""What README, docs and the examples show works."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from rollout.bootstrap import Proxy, bootstrap
from rollout.configs import read_configs
from rollout.exposure import FULL_BP
from rollout.spec import parse_strategy
from rollout.traffic.publisher import check
from xds.resources import TYPES

ROOT = Path(__file__).parents[1]


def test_example_configuration_is_served_without_a_warning() -> None:
    _, compiler, warnings = check(read_configs(ROOT / "envoy-configs"))
    assert (set(compiler.services), warnings) == ({"checkout"}, ())


def test_example_bootstrap_is_what_the_verb_prints() -> None:
    proxy = Proxy("envoy-edge-01", "envoy", "eu", "eu-1", "127.0.0.1:18000", "127.0.0.1:9901")
    assert yaml.safe_load((ROOT / "envoy-configs" / "bootstrap.yaml").read_text()) == bootstrap(proxy)


def test_strategies_in_readme_can_be_used() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        assert parse_strategy(block).stages[-1].weight_bp == FULL_BP


def test_every_list_of_a_configuration_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    for type_ in TYPES:
        assert f"| `{type_.word}` | `{type_.message}` |" in text, type_.word


def test_make_targets_in_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_compose_moves_the_example_onto_its_own_backends() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    command = compose["services"]["server"]["command"][0]
    pattern, replacement = re.findall(r"s/(.*?)/(.*?)/'", command)[0]
    python_pattern = pattern.replace("\\(", "(").replace("\\)", ")")
    text, count = re.subn(python_pattern, replacement, (ROOT / "envoy-configs" / "checkout.yaml").read_text())
    assert count == 3
    moved = {line.split("address: ")[-1].split(",")[0] for line in text.splitlines() if "172.30.0" in line}
    services = compose["services"]
    assert moved == {services[f"v1-{number}"]["networks"]["shop"]["ipv4_address"] for number in (1, 2, 3)}


def test_tests_in_conformance_exist_and_every_rule_has_a_row_of_its_own() -> None:
    text = (ROOT / "docs" / "conformance.md").read_text()
    named = re.findall(r"`([a-z_/]+)::(test_[a-z0-9_]+)`", text)
    assert len(named) > 100
    for module, name in named:
        source = (ROOT / "tests" / f"{module}.py").read_text()
        assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"{module}::{name}"
    rules = re.findall(r"^\| (?!---|rule|bug|client)([^|]+) \|", text, re.MULTILINE)
    assert len(rules) == len(set(rules)) > 80


@pytest.mark.parametrize(("skipped", "code"), [(2, 0), (0, 0), (0, 1)])
def test_make_audit_says_how_much_was_not_audited(tmp_path: Path, skipped: int, code: int) -> None:
    rows = "".join(
        f"p{each} Dependency not found on PyPI and could not be audited: p{each} (1)\n" for each in range(skipped)
    )
    said = f"No known vulnerabilities found\nName Skip Reason\n{rows}" if skipped else "p1 1.0 PYSEC-1\n"
    for tool, script in {"bandit": "", "pip-audit": f"cat <<'END'\n{said}END\nexit {code}\n"}.items():
        (tmp_path / tool).write_text(f"#!/bin/sh\n{script}")
        (tmp_path / tool).chmod(0o755)
    installed = tmp_path / ".installed"
    installed.touch()  # newer than what make would install again for
    command = ["make", "audit", f"BIN={tmp_path}", f"INSTALLED={installed}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode != 0) == (code != 0)
    assert ("WARNING: 2 packages are NOT audited" in ended.stderr) == (skipped == 2)
    assert said.splitlines()[0] in ended.stdout
    assert "Skip Reason" not in ended.stdout
