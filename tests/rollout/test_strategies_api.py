"""Strategies that have names: saved with every fault told at once, named by deployments, kept over a restart."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rollout.commandline import Server, configuration, rollout, serving

HOOK = "hooks:\n- {at: event, url: 'https://chat.example.com/T1/SECRET', headers: {x-key: SECRET}}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), configuration(("checkout",))) as found:
        yield found


def write(folder: Path, text: str) -> str:
    file = folder / "strategy.yaml"
    file.write_text(text)
    return str(file)


def test_a_strategy_is_saved_once_and_shown_without_its_secrets(server: Server, tmp_path: Path) -> None:
    file = write(tmp_path, f"stages: [50%, 100%]\n{HOOK}")
    for _ in range(2):  # the same again is no revision
        result = rollout("strategy", "put", "careful", file, server=server.url)
        assert (result.exit_code, result.stdout) == (0, "careful is saved, revision 1\n")
    shown = rollout("strategy", "show", "careful", server=server.url).stdout
    assert "SECRET" not in shown
    assert "[redacted]" in shown
    again = rollout("strategy", "put", "careful", write(tmp_path, shown), server=server.url)
    assert again.stdout == "careful is saved, revision 1\n"  # what is shown is what is there
    changed = write(tmp_path, shown.replace("50%", "20%"))
    assert "revision 2" in rollout("strategy", "put", "careful", changed, server=server.url).stdout
    found = server.get("/v1/strategies")["strategies"]
    assert [(each["name"], each["stages"], each["by"]) for each in found] == [("careful", [20.0, 100.0], "ann")]
    assert "careful" in rollout("strategy", "list", server=server.url).stdout


def test_all_that_is_wrong_is_told_at_once(server: Server, tmp_path: Path) -> None:
    file = write(tmp_path, "stages: [50%, 20%]\ngate: {warmup: 3}\nstagse: 1\n")
    result = rollout("strategy", "put", "bad", file, server=server.url)
    assert result.exit_code == 1
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == [f"{file}:{line}" for line in (1, 3, 2)]
    unknown = write(tmp_path, "hooks: [{at: event, url: 'https://a.example.com/[redacted]'}]")
    result = rollout("strategy", "put", "bad", unknown, server=server.url)
    assert "strategy.hooks[0].url: is '[redacted]', and no secret is known here" in result.stderr
    assert rollout("strategy", "show", "bad", server=server.url).exit_code == 1


def test_what_is_unwise_is_told_and_saved(server: Server, tmp_path: Path) -> None:
    result = rollout("strategy", "put", "hasty", write(tmp_path, "stages: [100%]"), server=server.url)
    assert result.exit_code == 0
    assert result.stdout.startswith("warning: stages: all traffic moves in one push")


def test_a_deployment_names_its_strategy_and_keeps_it(server: Server, tmp_path: Path) -> None:
    file = write(tmp_path, "stages: [5%, 100%]\ndrain_timeout: 100ms\n")
    rollout("strategy", "put", "slow", file, server=server.url)
    deploy = ("deploy", "checkout", "v2", "--endpoint", "127.0.0.1:7101", "--strategy-name")
    unknown = rollout(*deploy, "sloow", server=server.url)
    assert unknown.exit_code == 1
    assert "there is no strategy 'sloow'; there are" in unknown.stderr
    begun = rollout(*deploy, "slow", "--json", server=server.url)
    assert (begun.exit_code, json.loads(begun.stdout)["stages"]) == (0, [5.0, 100.0])

    rollout("strategy", "put", "slow", write(tmp_path, "stages: [50%, 100%]"), server=server.url)
    assert rollout("strategy", "remove", "slow", server=server.url).stdout == "slow is removed\n"
    assert server.get("/v1/services/checkout")["rollout"]["stages"] == [5.0, 100.0]
    gone = rollout("strategy", "remove", "slow", server=server.url)
    assert (gone.exit_code, "there is no strategy 'slow'" in gone.stderr) == (1, True)
    rollout("abort", "checkout", server=server.url)


def test_a_file_and_a_name_do_not_go_together(tmp_path: Path) -> None:
    both = ("--strategy", write(tmp_path, "{}"), "--strategy-name", "slow")
    assert rollout("deploy", "checkout", "v2", "--endpoint", "127.0.0.1:7101", *both).exit_code == 2


def test_dates_of_a_strategys_file_reach_the_server(server: Server, tmp_path: Path) -> None:
    file = write(tmp_path, "freeze: {windows: [{dates: [2020-12-24, 2020-12-27]}]}\n")
    deployed = ("deploy", "checkout", "v9", "--endpoint", "127.0.0.1:7109", "--strategy", file)
    begun = rollout(*deployed, "--supersede", server=server.url)
    assert begun.exit_code == 0, begun.output


def test_strategies_are_there_after_a_restart(tmp_path: Path) -> None:
    file = write(tmp_path, "stages: [50%, 100%]\n")
    with serving(tmp_path, configuration(("checkout",))) as first:
        rollout("strategy", "put", "careful", file, server=first.url)
        before = first.get("/v1/strategies/careful")
    (tmp_path / "envoy-configs" / "all.yaml").unlink()
    (tmp_path / "envoy-configs").rmdir()
    with serving(tmp_path, configuration(("checkout",))) as second:
        assert second.get("/v1/strategies/careful") == before
