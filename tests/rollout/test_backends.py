"""What operators ask of single backends: drains of one and of a location, backends added to a version and removed."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from rollout.backends import Scaling
from rollout.errors import Conflict, Unavailable, Unknown
from rollout.metrics import Query, Scrape
from rollout.record import Version
from rollout.spec import parse_endpoint
from rollout.state import Command, Phase
from tests.rollout.operating import ANN, SHOP, Engine, deployment, files, running

EU, EU_TWO, US = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
NEW = "10.0.0.4:80"
CLUSTER = "checkout@initial"
V2 = deployment("v2", "10.0.0.11:80@eu/eu-1", "10.0.0.12:80@us/us-1")


def added(*texts: str) -> Scaling:
    return Scaling(tuple(map(parse_endpoint, texts)))


async def let_go(engine: Engine, *addresses: str) -> None:
    """Let time pass until nothing more is drained, and these are not served."""
    for _ in range(50):
        await engine.step()
    assert engine.controller.books.draining() == ()
    assert not set(addresses) & engine.health(CLUSTER).keys()


async def test_a_locations_backends_are_let_go_together_and_taken_back(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        for _ in range(2):
            await engine.backends.drain_location("checkout", "eu", ANN)
        assert engine.health(CLUSTER) == {EU: "DRAINING", EU_TWO: "DRAINING", US: "HEALTHY"}
        await let_go(engine, EU, EU_TWO)
        for _ in range(2):
            await engine.backends.undrain_location("checkout", "eu/eu-1", ANN)
        assert set(engine.health(CLUSTER).values()) == {"HEALTHY"}
        assert len(engine.health(CLUSTER)) == 3
        results = [(verb, result) for verb, _, result in await engine.log()]
        both = f"{EU}, {EU_TWO}"
        assert results == [("drain", both), ("drain", "no change"), ("undrain", both), ("undrain", "no change")]


async def test_a_location_with_the_last_healthy_backends_is_refused_as_a_whole(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        engine.ill.add(US)
        with pytest.raises(Conflict, match=f"{EU}, {EU_TWO} are the last healthy backends of 'initial'"):
            await engine.backends.drain_location("checkout", "eu-1", ANN)
        assert engine.controller.books.backends("checkout") == ()
        with pytest.raises(Unknown, match="no backend in mars; its backends are in eu/eu-1, us/us-1"):
            await engine.backends.drain_location("checkout", "mars", ANN)


async def test_a_location_is_drained_of_both_versions_of_a_rollout(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.until(Phase.SHIFTING)
        await engine.backends.drain_location("checkout", "us", ANN)
        drains = {(each.version, each.address) for each in engine.controller.books.backends("checkout")}
        assert drains == {("initial", US), ("v2", "10.0.0.12:80")}


async def test_nothing_is_let_go_while_no_envoy_says_what_is_healthy(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()

        async def nothing(_: object) -> dict[str, object]:
            return {}

        engine.survey = nothing
        with pytest.raises(Unavailable, match="nothing was changed"):
            await engine.backends.drain("checkout", EU, ANN)
        await engine.backends.scale("checkout", "initial", added(NEW), ANN)
        assert NEW in engine.health(CLUSTER)


async def test_what_a_rollout_lets_go_while_envoys_are_asked_counts(tmp_path: Path) -> None:
    """Both would be the last one for the other."""
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.until(Phase.SHIFTING)
        asked = engine.survey

        async def meanwhile(query: Query) -> Mapping[str, Scrape]:
            rollout = engine.rollout()
            state = replace(rollout.state, let_go="10.0.0.11:80")
            engine.controller.books.rollouts["checkout"] = replace(rollout, state=state)
            return await asked(query)

        engine.survey = meanwhile
        with pytest.raises(Conflict, match=r"10\.0\.0\.12:80 is the last healthy backend of 'v2'"):
            await engine.backends.drain("checkout", "10.0.0.12:80", ANN)


async def test_a_rollout_lets_nothing_go_while_an_operators_drain_is_checked(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        rollout = await engine.until(Phase.SHIFTING)
        state = replace(rollout.state, let_go="10.0.0.11:80")
        engine.controller.books.rollouts["checkout"] = replace(rollout, state=state)
        with engine.controller.alone("checkout"):
            await engine.steps(5)
            assert engine.controller.books.backends("checkout") == ()
        await engine.steps(5)
        assert [each.address for each in engine.controller.books.backends("checkout")] == ["10.0.0.11:80"]


async def test_a_rollout_does_not_let_go_what_has_become_the_last_backend(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.until(Phase.SHIFTING)
        await engine.backends.drain("checkout", "10.0.0.12:80", ANN)
        rollout = engine.rollout()
        engine.controller.books.rollouts["checkout"] = replace(
            rollout, state=replace(rollout.state, let_go="10.0.0.11:80")
        )
        await engine.steps(5)
        assert [each.address for each in engine.controller.books.backends("checkout")] == ["10.0.0.12:80"]


async def test_a_backend_that_is_let_go_comes_back_and_survives_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await engine.backends.drain("checkout", EU, ANN)
        await engine.backends.drain("checkout", US, ANN)
        await engine.backends.undrain("checkout", EU, ANN)
    async with running(tmp_path) as engine:
        assert engine.health(CLUSTER) == {EU: "HEALTHY", EU_TWO: "HEALTHY", US: "DRAINING"}
        with pytest.raises(Unknown, match=r"has no backend 10\.9\.9\.9:80"):
            await engine.backends.undrain("checkout", "10.9.9.9:80", ANN)


async def test_backends_are_added_and_those_that_go_are_drained_first(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        wanted = Scaling((parse_endpoint(f"{NEW}@eu/eu-1"),), frozenset({US}))
        for _ in range(2):
            await engine.backends.scale("checkout", "initial", wanted, ANN)
        assert engine.health(CLUSTER) == {EU: "HEALTHY", EU_TWO: "HEALTHY", NEW: "HEALTHY", US: "DRAINING"}
        await let_go(engine, US)
        (version,) = engine.controller.books.versions("checkout")
        assert [str(each) for each in version.endpoints or ()] == [f"{each}@eu/eu-1" for each in (EU, EU_TWO, NEW)]
        assert engine.controller.books.backends("checkout") == ()
        await engine.backends.scale("checkout", "initial", wanted, ANN)
        assert [result for _, _, result in await engine.log()] == ["done", "no change", "no change"]
    async with running(tmp_path) as engine:
        assert engine.controller.books.versions("checkout") == (version,)
        (warning,) = engine.warnings
        assert warning.startswith("service 'checkout': its endpoints in envoy-configs are not served (10.0.0.3:80)")


async def test_the_whole_set_is_given_and_the_last_healthy_ones_stay(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        with pytest.raises(Conflict, match="are the last healthy backends"):
            await engine.backends.place("checkout", "initial", (parse_endpoint(NEW),), ANN)
        assert engine.health(CLUSTER).keys() == {EU, EU_TWO, US}
        given = tuple(parse_endpoint(each) for each in (f"{EU}@eu/eu-1", NEW))
        await engine.backends.place("checkout", "initial", given, ANN)
        await let_go(engine, EU_TWO, US)
        assert engine.health(CLUSTER) == {EU: "HEALTHY", NEW: "HEALTHY"}


async def test_a_backend_that_leaves_is_kept_when_it_is_added_again(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await engine.backends.scale("checkout", "initial", Scaling((), frozenset({US})), ANN)
        await engine.backends.scale("checkout", "initial", added(f"{US}@us/us-1"), ANN)
        assert engine.health(CLUSTER)[US] == "HEALTHY"


async def test_the_candidate_is_scaled_in_a_rollout_and_that_is_remembered(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.until(Phase.SHIFTING)
        await engine.backends.scale("checkout", "v2", added(NEW), ANN)
        with pytest.raises(Conflict, match="belongs to 'initial'"):
            await engine.backends.scale("checkout", "v2", added(EU), ANN)
        with pytest.raises(Unknown, match="has no version 'v3' now; it has initial, v2"):
            await engine.backends.scale("checkout", "v3", added(NEW), ANN)
        await engine.order(Command.ABORT)
        await engine.ended()
        again = await engine.operations.retry("checkout", ANN)
        assert NEW in engine.controller.books.addresses("checkout", again.candidate)


async def test_endpoints_with_more_than_an_address_stay_in_envoy_configs(tmp_path: Path) -> None:
    weighted = SHOP.replace("- endpoint:", "- load_balancing_weight: 2\n      endpoint:", 1)
    assert weighted != SHOP
    async with running(tmp_path, weighted) as engine:
        with pytest.raises(Conflict, match="more than an address, region and zone"):
            await engine.backends.scale("checkout", "initial", added(NEW), ANN)


async def test_a_version_is_named_with_the_endpoints_it_has_got(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await engine.backends.scale("checkout", "initial", added(NEW), ANN)
        await engine.operations.adopt("checkout", "v1", ANN)
        (version,) = engine.controller.books.versions("checkout")
        assert NEW in {each.address for each in version.endpoints or ()}
    async with running(tmp_path) as engine:
        assert engine.controller.books.versions("checkout") == (version,)
        assert isinstance(version, Version)


async def test_endpoints_of_the_files_that_are_served_are_no_reason_to_warn(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        assert engine.warnings == ()
        engine.connect()
        await engine.operations.deploy(deployment("v2", "10.0.0.11:80"), ANN)
        await engine.completed()
        now_s = engine.now_s
    async with running(tmp_path, now_s=now_s) as engine:
        assert "its endpoints in envoy-configs are not served" in engine.warnings[0]
        assert "'v2' has endpoints of its own" in engine.warnings[0]
    async with running(tmp_path, files(checkout={"": ("10.0.0.11:80",)}), now_s) as engine:
        assert engine.warnings == ()
    async with running(tmp_path, now_s=now_s) as engine:
        await engine.operations.deploy(deployment("v4", "10.0.0.13:80"), ANN)
    async with running(tmp_path, now_s=now_s) as engine:
        assert "'v2' and 'v4' have endpoints of their own" in engine.warnings[0]
