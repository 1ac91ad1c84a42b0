"""The command line tries before it does, asks again with the same key, and shows what is served."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rollout.commandline import Script, Server, configuration, rollout, scripted, serving, view, words

CHECKOUT = "/v1/services/checkout"
BACKEND = "127.0.0.1:7001"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("careful"), configuration(["cart", "checkout"])) as found:
        yield found


@pytest.mark.parametrize(
    ("verb", "code", "says"),
    [
        (("deploy", "checkout", "v2", "--endpoint", "127.0.0.1:7009"), 0, "dry run: rollout 1 of 'checkout' begins"),
        (("drain", "checkout", BACKEND, "--wait"), 0, "dry run: 1 backend (127.0.0.1:7001) of 'initial'"),
        (("undrain", "checkout", BACKEND), 0, "dry run: nothing: 127.0.0.1:7001 of 'checkout' is not let go"),
        (("mark", "checkout", BACKEND, "unhealthy"), 0, "dry run: no Envoy sends 127.0.0.1:7001"),
        (("scale", "checkout", "initial", "--remove", BACKEND, "--wait"), 0, "(127.0.0.1:7001) drained"),
        (("adopt", "checkout", "v1"), 0, "dry run: the version 'initial' of 'checkout' is called 'v1'"),
        (("dequeue", "checkout"), 0, "dry run: nothing: no deployment of 'checkout' waits"),
        (("config", "reload"), 0, "dry run: nothing: envoy-configs says what is served already"),
        (("strategy", "remove", "slow"), 1, "error: there is no strategy 'slow'"),
        (("token", "create", "ops", "--role", "admin"), 0, "dry run: create the token ops"),
        (("token", "revoke", "ops"), 1, "error: there is no token 'ops'"),
        (("discovery", "set", "checkout", "initial", "dns:localhost:7001"), 0, "dry run: the backends of 'initial'"),
        (("discovery", "remove", "checkout", "initial"), 0, "dry run: nothing"),
        (("version", "remove", "checkout", "initial"), 1, "error: version 'initial' has the traffic of 'checkout'"),
        (("undo", "checkout", "--wait"), 1, "error: 'checkout' has had no rollout"),
        (("retry", "checkout"), 1, "error: 'checkout' has had no rollout"),
        *(
            ((verb, "checkout"), 1, "error: no rollout of 'checkout' is in progress")
            for verb in ("promote", "skip-stage", "approve", "reject", "pause", "resume", "abort")
        ),
    ],
)
def test_a_dry_run_says_what_would_happen_and_does_nothing(
    server: Server, verb: tuple[str, ...], code: int, says: str
) -> None:
    before = server.get(CHECKOUT)
    result = rollout(*verb, "--dry-run", server=server.url)
    assert (result.exit_code, says in words(result.output)) == (code, True), result.output
    assert server.get(CHECKOUT) == before
    assert server.get("/v1/operations?verb=deploy")["operations"] == []


def test_a_strategy_is_put_in_a_dry_run(server: Server, tmp_path: Path) -> None:
    (tmp_path / "slow.yaml").write_text("stages: [10%, 100%]")
    result = rollout("strategy", "put", "slow", str(tmp_path / "slow.yaml"), "--dry-run", server=server.url)
    assert (result.exit_code, "dry run: the strategy 'slow' is added" in words(result.output)) == (0, True)
    assert server.get("/v1/strategies")["strategies"] == []


def test_a_token_is_not_made_offline_in_a_dry_run(tmp_path: Path) -> None:
    result = rollout("token", "create", "ops", "--role", "admin", "--data", str(tmp_path / "data"), "--dry-run")
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])


def test_a_dry_run_in_json_is_the_apis_answer(server: Server) -> None:
    result = rollout("adopt", "checkout", "initial", "--dry-run", "--json", server=server.url)
    answer = json.loads(result.stdout)
    assert (answer["dry_run"], answer["changes"]) == (True, False)


def test_config_show_tells_of_files_and_resources(server: Server) -> None:
    shown = words(rollout("config", "show", server=server.url).output)
    assert f"{server.configs / 'all.yaml'} all Envoys" in shown
    assert "2 clusters, 2 endpoints, 1 routes" in shown
    listed = words(rollout("config", "show", "--type", "clusters", server=server.url).output)
    assert "clusters cart@initial" in listed
    held = rollout("config", "show", "--name", "cart@initial", "--json", server=server.url)
    assert {each["type"] for each in json.loads(held.stdout)["resources"]} == {"clusters", "endpoints"}


def test_a_refused_change_is_shown(tmp_path: Path) -> None:
    with serving(tmp_path, configuration(["cart"])) as server:
        (server.configs / "all.yaml").write_text("clusters: 1")
        assert rollout("config", "reload", server=server.url).exit_code == 1
        shown = words(rollout("config", "show", server=server.url).output)
        assert "asked by ann:" in shown
        assert "all.yaml" in shown


def test_a_change_is_asked_for_again_with_the_same_key_when_the_connection_breaks() -> None:
    script = Script({f"{CHECKOUT}/commands/promote": [None, view("shifting")["rollout"]]})
    with scripted(script) as url:
        result = rollout("promote", "checkout", "--stage", "2", server=url)
    assert result.exit_code == 0, result.output
    keys = [headers["Idempotency-Key"] for _, _, headers, _ in script.asked]
    assert keys == [keys[0]] * 2
    assert [body for *_, body in script.asked] == [{"stage": 1}] * 2


def test_each_change_has_a_key_of_its_own_and_a_dry_run_has_none() -> None:
    script = Script({f"{CHECKOUT}/commands/abort": [view("rolling_back")["rollout"]]})
    with scripted(script) as url:
        for _ in range(2):
            assert rollout("abort", "checkout", server=url).exit_code == 0
        assert rollout("promote", "checkout", "--stage", "0", server=url).exit_code == 2
    first, second = (headers["Idempotency-Key"] for _, _, headers, _ in script.asked)
    assert first != second


def test_a_server_that_knows_no_dry_run_is_told_of() -> None:
    script = Script({f"{CHECKOUT}/commands/abort": [view("rolling_back")["rollout"]]})
    with scripted(script) as url:
        result = rollout("abort", "checkout", "--dry-run", server=url)
    assert (result.exit_code, "knows no dry run, and has done it" in words(result.output)) == (1, True)
    assert "Idempotency-Key" not in script.asked[0][2]
