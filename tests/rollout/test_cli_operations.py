"""The verbs of operators on the command line, against a real server without Envoys, and a scripted one for waiting."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rollout.cli import app
from tests.rollout.commandline import Script, Server, configuration, rollout, scripted, serving, view, words

LIMIT_S = 90.0
ONE, TWO = "127.0.0.1:7001", "127.0.0.1:7002"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    text = configuration(("cart", "checkout", "search", "shop", "stock"))
    located = text.replace("  - lb_endpoints:", "  - locality: { region: eu, zone: eu-1 }\n    lb_endpoints:")
    with serving(tmp_path_factory.mktemp("server"), located) as running:
        yield running


def call(server: Server, *arguments: str) -> str:
    """Call a verb that succeeds; return what it prints, as one line."""
    result = rollout(*arguments, server=server.url)
    assert result.exit_code == 0, result.output
    return words(result.stdout)


def refused(server: Server, *arguments: str) -> str:
    result = rollout(*arguments, server=server.url)
    assert result.exit_code == 1, result.output
    return words(result.stderr)


def until(reached: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < end_s, what


def service(server: Server, name: str) -> Any:
    return server.get(f"/v1/services/{name}")


def test_a_rollout_is_superseded_undone_and_tried_again(server: Server) -> None:
    call(server, "deploy", "checkout", "v2", "--endpoint", "127.0.0.1:7102")
    assert "deploy with --supersede" in refused(server, "deploy", "checkout", "v3", "--endpoint", "127.0.0.1:7103")
    said = call(server, "deploy", "checkout", "v3", "--endpoint", "127.0.0.1:7103", "--supersede")
    assert "(superseded by v3 (ann))" in said
    assert "v3 by ann is queued: it begins when this rollout has ended" in said

    def begun() -> bool:
        return bool(service(server, "checkout")["rollout"]["candidate"] == "v3")

    until(begun, "v3 to begin")
    assert "undone by ann" in call(server, "undo", "checkout")
    until(lambda: not service(server, "checkout")["in_progress"], "v3 to be taken back")
    said = call(server, "undo", "checkout")
    assert "nothing was changed: 'initial' has the traffic already, for rollout 2 to 'v3' was taken back;" in said
    assert "; `rollout undo checkout --to VERSION` goes to another one (v3, v2)" in said
    assert json.loads(call(server, "undo", "checkout", "--json"))["unchanged"].startswith("'initial' has the traffic")
    waited = rollout("undo", "checkout", "--wait", "--json", server=server.url)
    assert (waited.exit_code, "nothing was changed" in waited.stderr) == (3, True)
    assert [json.loads(line)["in_progress"] for line in waited.stdout.splitlines()] == [False]
    assert "tried again by ann" in call(server, "retry", "checkout")
    assert service(server, "checkout")["rollout"]["id"] == 3
    asked = {
        (each["verb"], each["by"], each["result"])
        for each in server.get("/v1/services/checkout/operations")["operations"]
    }
    assert asked >= {("supersede", "ann", "queued"), ("undo", "ann", "no change"), ("retry", "ann", "rollout 3")}


def test_what_is_queued_can_be_taken_out_twice(server: Server) -> None:
    call(server, "deploy", "cart", "v2", "--endpoint", "127.0.0.1:7202")
    call(server, "deploy", "cart", "v3", "--endpoint", "127.0.0.1:7203", "--supersede")
    for _ in range(2):
        call(server, "dequeue", "cart")
    assert service(server, "cart")["queued"] is None


def test_a_location_is_drained_and_taken_back(server: Server) -> None:
    assert "are the last healthy backends of 'initial'" in refused(server, "drain", "search", "--location", "eu/eu-1")
    assert "its backends are in eu/eu-1" in refused(server, "drain", "search", "--location", "mars")
    call(server, "scale", "search", "initial", "--add", "127.0.0.1:7003@us/us-1")
    said = call(server, "drain", "search", "--location", "eu")
    assert f"{ONE} of initial:" in said
    assert f"{TWO} of initial:" in said
    call(server, "undrain", "search", "--location", "eu-1")
    assert service(server, "search")["drains"] == []
    call(server, "drain", "search", ONE)
    call(server, "undrain", "search", ONE)
    assert service(server, "search")["drains"] == []


def test_a_version_is_scaled(server: Server) -> None:
    assert "127.0.0.1:7004" in call(server, "scale", "stock", "initial", "--add", "127.0.0.1:7004", "--remove", ONE)
    assert [each["backend"] for each in service(server, "stock")["drains"]] == [ONE]
    assert "has no version 'v9' now; it has initial" in refused(server, "scale", "stock", "v9", "--add", ONE)
    text = call(server, "scale", "stock", "initial", "--endpoint", TWO, "--endpoint", "127.0.0.1:7004", "--json")
    assert json.loads(text)["versions"][0]["backends"] == [ONE, TWO, "127.0.0.1:7004"]  # one is drained still


def test_versions_are_listed_and_only_past_ones_are_forgotten(server: Server) -> None:
    assert "initial stable, as in envoy-configs 100 % 127.0.0.1:7001" in call(server, "version", "list", "shop")
    assert "has the traffic of 'shop'; deploy another one first" in refused(
        server, "version", "remove", "shop", "initial"
    )
    call(server, "deploy", "shop", "v2", "--endpoint", "127.0.0.1:7302")
    assert "in progress; wait for its end, or abort it" in refused(server, "version", "remove", "shop", "v2")
    call(server, "abort", "shop")
    until(lambda: not service(server, "shop")["in_progress"], "the rollout to be taken back")
    assert "v2 was taken back at 2" in call(server, "version", "list", "shop")
    call(server, "version", "remove", "shop", "v2")
    assert server.get("/v1/services/shop/versions")["past"] == []
    assert "has no past version 'v2'" in refused(server, "version", "remove", "shop", "v2")


@pytest.mark.parametrize("verb", ["promote", "skip-stage", "approve", "reject", "pause", "resume", "abort"])
def test_steering_without_a_rollout_is_refused_and_noted(server: Server, verb: str) -> None:
    refused(server, "config", "reload", "--server", "http://127.0.0.1:9")
    assert "no rollout of 'search' is in progress" in refused(server, verb, "search", "--location", "eu/eu-1")
    assert f"{verb.replace('-', '_')} search eu/eu-1 by ann: Conflict: no rollout" in call(server, "log", "search")


def test_the_log_of_everything_has_the_configuration(server: Server) -> None:
    call(server, "config", "reload")

    def noted() -> bool:
        return "config reload by ann: done" in call(server, "log")

    until(noted, "the reload to be noted")
    assert "there is no service 'nope'" in refused(server, "log", "nope")


def test_waiting_for_a_queued_deployment_ends_as_that_one_does() -> None:
    queued: dict[str, Any] = {
        "version": "v3",
        "backends": [],
        "by": "ann",
        "at": "2026-11-22T05:10:41+00:00",
        "fault": None,
    }
    more: dict[str, Any] = {
        "awaiting": None,
        "waiting": "",
        "track": [],
        "point_of_no_return": "",
        "keep_stable_seconds": 0.0,
    }

    def seen(phase: str, number: int, waits: Any) -> dict[str, Any]:
        return {**view(phase, id=number, candidate=f"v{number + 1}", **more), "queued": waits}

    first = seen("rolling_back", 1, queued)
    path = "/v1/services/checkout"
    script = {
        f"{path}/rollouts": [{**first["rollout"], "queued": queued}],
        path: [first, first, seen("shifting", 2, None), seen("completed", 2, None)],
    }
    arguments = ("deploy", "checkout", "v3", "--endpoint", "127.0.0.1:1", "--supersede", "--wait")
    with scripted(Script(script)) as url:
        result = rollout(*arguments, server=url)
    assert result.exit_code == 0, result.output
    assert "v1 → v3: completed" in words(result.stdout)
    faulty = seen("rolled_back", 1, {**queued, "fault": "10.0.0.1:80 belongs to 'v1'"})
    with scripted(Script({**script, path: [first, faulty]})) as url:
        result = rollout(*arguments, server=url)
    assert (result.exit_code, "it does not begin: 10.0.0.1:80 belongs to 'v1'" in result.stderr) == (1, True)


def test_verbs_are_in_the_help() -> None:
    text = rollout("--help").stdout
    assert app.info.name == "rollout"
    for verb in ("undo", "retry", "dequeue", "skip-stage", "approve", "reject", "undrain", "scale", "version", "log"):
        assert f"\n  {verb} " in text, verb
