"""`rollout plan` and `apply` against a real server: a dry run, idempotent, and all checks before any change."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rollout.commandline import SERVICES, Server, configuration, rollout, serving, words

CAREFUL = "kind: strategy\nname: {name}\nstages: [50%, 100%]\ndrain_timeout: 100ms\n"
SERVICE = "kind: service\nname: {name}\nversion: {version}\nendpoints: ['127.0.0.1:{port}']\nstrategy: {strategy}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), configuration(SERVICES)) as found:
        yield found


def write(folder: Path, service: str, version: str = "v2", port: int = 7101, extra: str = "") -> str:
    """Write a strategy of the service's name, and the service; return the file."""
    file = folder / f"{service}.yaml"
    document = SERVICE.format(name=service, version=version, port=port, strategy=service)
    file.write_text(CAREFUL.format(name=service) + extra + "---\n" + document)
    return str(file)


def ask(server: Server, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Call a verb for its JSON."""
    result = rollout(*arguments, "--json", server=server.url)
    return result.exit_code, json.loads(result.stdout)


def actions(answer: dict[str, Any]) -> list[str]:
    return [step["action"] for step in answer["steps"]]


def state(server: Server, service: str) -> tuple[str, int, bool]:
    found = server.get(f"/v1/services/{service}")
    return found["stable"], (found["rollout"] or {"id": 0})["id"], found["in_progress"]


def test_apply_makes_it_so_once_and_plan_says_before(server: Server, tmp_path: Path) -> None:
    file = write(tmp_path, "cart")
    code, planned = ask(server, "plan", "-f", file)
    assert (code, actions(planned)) == (5, ["create", "rollout"])
    assert state(server, "cart") == ("initial", 0, False)  # nothing was done
    assert "initial -> v2 on 1 backend, by strategy cart: 50, 100 %" in planned["steps"][1]["words"]

    code, applied = ask(server, "apply", "-f", file, "--fingerprint", planned["fingerprint"])
    assert (code, applied["steps"][1]["rollout"]) == (0, 1)
    for _ in range(2):  # in progress, and again
        code, again = ask(server, "apply", "-f", file)
        assert (code, actions(again), again["changes"]) == (0, ["none", "none"], 0)
    assert ask(server, "plan", "-f", file)[0] == 0
    assert state(server, "cart") == ("initial", 1, True)


@pytest.mark.parametrize("options", [(), ("--prune",)])
def test_files_without_a_document_are_a_mistake_and_remove_nothing(
    server: Server, tmp_path: Path, options: tuple[str, ...]
) -> None:
    full, folder, empty = write(tmp_path, "stock"), tmp_path / "shop", tmp_path / "empty.yaml"
    folder.mkdir()
    (folder / "notes.txt").write_text("kind: service")
    empty.write_text("# later\n---\n")
    for verb in ("plan", "apply"):
        for file, named in ((str(folder), str(folder)), (str(empty), str(empty)), ("-", "stdin")):
            for files in (("-f", file), ("-f", full, "-f", file)):
                result = rollout(verb, *files, *options, server=server.url)
                assert result.exit_code == 1, result.output
                assert words(result.stderr).startswith(f"error: no documents in {named}; ")
    assert state(server, "stock") == ("initial", 0, False)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    missing, binary = tmp_path / "nofile.yaml", tmp_path / "shop.yaml"
    result = rollout("plan", "-f", str(missing))
    assert result.exit_code == 2  # wrong usage, as of `lint`
    assert "nofile.yaml" in words(result.stderr.replace("│", ""))
    binary.write_bytes(b"\xff\xfe\x00kind")
    result = rollout("plan", "-f", str(tmp_path))
    assert result.exit_code == 1
    assert words(result.stderr).startswith(f"error: {binary}: document 1: cannot be read: it is no text in UTF-8")


def test_a_version_that_was_rolled_back_is_held(server: Server, tmp_path: Path) -> None:
    file = write(tmp_path, "checkout")
    assert ask(server, "apply", "-f", file)[0] == 0
    assert rollout("abort", "checkout", server=server.url).exit_code == 0
    assert rollout("apply", "-f", file, "--wait", server=server.url).exit_code == 3  # it goes back
    assert state(server, "checkout")[:2] == ("initial", 1)
    for verb in ("plan", "apply"):
        result = rollout(verb, "-f", file, server=server.url)
        assert result.exit_code == 3
        assert "! service/checkout: v2 was rolled back" in result.output
    code, retried = ask(server, "apply", "-f", file, "--retry")
    assert (code, actions(retried), retried["steps"][1]["rollout"]) == (0, ["none", "rollout"], 2)
    assert rollout("abort", "checkout", server=server.url).exit_code == 0


def test_another_rollout_is_waited_for_or_superseded(server: Server, tmp_path: Path) -> None:
    deployed = rollout("deploy", "search", "v2", "--endpoint", "127.0.0.1:7101", server=server.url)
    assert deployed.exit_code == 0
    file = write(tmp_path, "search", version="v3", port=7102)
    code, answer = ask(server, "apply", "-f", file)
    assert (code, actions(answer)) == (4, ["create", "waits"])  # the strategy is there, the version waits
    code, answer = ask(server, "apply", "-f", file, "--supersede")
    assert (code, actions(answer)) == (0, ["none", "supersede"])
    code, answer = ask(server, "plan", "-f", file)
    assert (code, actions(answer)) == (0, ["none", "none"])
    assert rollout("dequeue", "search", server=server.url).exit_code == 0


def test_a_wrong_document_changes_nothing(server: Server, tmp_path: Path) -> None:
    file = Path(write(tmp_path, "stock"))
    file.write_text(f"{file.read_text()}---\n{SERVICE.format(name='stok', version='v2', port=7101, strategy='stock')}")
    for verb in ("plan", "apply"):
        result = rollout(verb, "-f", str(file), server=server.url)
        assert result.exit_code == 1
        assert words(result.stderr).startswith(f"error: {file}:13: document 3: name: there is no service 'stok'")
    assert state(server, "stock") == ("initial", 0, False)
    assert "stock" not in [each["name"] for each in server.get("/v1/strategies")["strategies"]]

    file.write_text("kind: strategy\nname: stock\nstages: [5%, 4%]\n---\nkind: serv\n")
    result = rollout("apply", "-f", str(file), server=server.url)  # told before anything is sent
    assert result.exit_code == 1
    assert [line.split(": ")[1:3] for line in result.stderr.splitlines()] == [
        [f"{file}:3", "document 1"],
        [f"{file}:5", "document 2"],
    ]


def test_a_plan_that_is_outdated_is_not_applied(server: Server, tmp_path: Path) -> None:
    file = write(tmp_path, "users")
    _, planned = ask(server, "plan", "-f", file)
    assert rollout("adopt", "users", "v1", server=server.url).exit_code == 0
    result = rollout("apply", "-f", file, "--fingerprint", planned["fingerprint"], server=server.url)
    assert result.exit_code == 1
    assert "things have changed since that plan was made" in result.stderr
    assert state(server, "users") == ("v1", 0, False)


def test_backends_and_names_follow_the_document(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    first = "kind: service\nname: shop\nversion: v1\nendpoints: ['127.0.0.1:7001', '127.0.0.1:7002'{}]\n"
    file.write_text(first.format(""))
    assert actions(ask(server, "apply", "-f", str(file))[1]) == ["adopt"]
    file.write_text(first.format(", '127.0.0.1:7003@eu/eu-1'"))
    code, answer = ask(server, "apply", "-f", str(tmp_path))  # a folder
    assert (code, actions(answer)) == (0, ["backends"])
    (version,) = server.get("/v1/services/shop")["versions"]
    assert version["backends"] == ["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"]
    assert ask(server, "plan", "-f", str(file))[0] == 0


def test_what_is_exported_is_planned_unchanged(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    exported = rollout("export", server=server.url)
    assert exported.exit_code == 0
    file.write_text(exported.stdout)
    code, answer = ask(server, "plan", "-f", str(file), "--prune")
    assert (code, set(actions(answer))) == (0, {"none"}), answer
    one = rollout("export", "shop", server=server.url)
    assert "name: shop" in one.stdout
    assert "kind: strategy" not in one.stdout  # it names none
    assert "name: cart\nversion" not in one.stdout
    assert "kind: strategy\nname: cart\n" in rollout("export", "cart", server=server.url).stdout
