"""What operators ask of a service's versions: deploy, supersede, undo, retry, forget; each may be asked again."""

import asyncio
from pathlib import Path

import pytest

from rollout.api.backstage import Moment
from rollout.api.views import rollout_view
from rollout.errors import Conflict, InvalidSpec, Unknown
from rollout.record import Origin
from rollout.spec import parse_deployment, parse_endpoint
from rollout.state import Command, Phase, Role
from tests.rollout.operating import ANN, BOB, Engine, deployment, files, running

V2 = deployment("v2", "10.0.0.11:80", "10.0.0.12:80")
V3 = deployment("v3", "10.0.0.21:80")
V4 = deployment("v4", "10.0.0.31:80")


async def test_a_superseding_deployment_begins_by_itself_when_the_first_is_taken_back(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.until(Phase.SHIFTING)
        first = await engine.operations.supersede(V3, BOB)
        assert (first.candidate, first.state.loser, first.state.reason) == (
            "v2",
            Role.CANDIDATE,
            "superseded by v3 (bob)",
        )
        assert engine.controller.books.queued["checkout"].version.name == "v3"
        await engine.ended()
        await engine.step()
        second = engine.rollout()
        assert (second.id, second.candidate, second.stable) == (2, "v3", "initial")
        assert engine.controller.books.queued == {}
        assert await engine.log() == [
            ("deploy", "ann", "rollout 1"),
            ("supersede", "bob", "queued"),
            ("deploy", "bob", "rollout 2"),
        ]


async def test_a_queued_deployment_survives_a_restart_and_an_abort(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.until(Phase.SHIFTING)
        await engine.operations.supersede(V3, BOB)
        await engine.order(Command.ABORT)
        now_s = engine.now_s
    async with running(tmp_path, now_s=now_s) as engine:
        assert engine.controller.books.queued["checkout"].version.name == "v3"
        engine.connect()
        await engine.ended()
        await engine.step()
        assert engine.rollout().candidate == "v3"


async def test_the_last_superseding_deployment_is_the_one_that_begins(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await engine.operations.deploy(V2, ANN)
        await engine.step()
        await engine.operations.supersede(V3, ANN)
        await engine.operations.supersede(V4, ANN)
        await engine.operations.supersede(V4, ANN)
        await engine.ended()
        await engine.step()
        assert engine.rollout().candidate == "v4"
        assert [result for verb, _, result in await engine.log() if verb == "supersede"] == [
            "queued",
            "queued",
            "no change",
        ]


async def test_superseding_by_what_is_in_progress_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await engine.operations.deploy(V2, ANN)
        await engine.step()
        before = engine.rollout()
        assert await engine.operations.supersede(V2, ANN) == before
        assert engine.controller.books.queued == {}


async def test_a_deployment_is_refused_while_one_is_in_progress_and_says_how_to_supersede(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await engine.operations.deploy(V2, ANN)
        with pytest.raises(Conflict, match=r"in progress .* --supersede"):
            await engine.operations.deploy(V3, ANN)
        with pytest.raises(Conflict, match="belongs to 'initial'"):
            await engine.operations.supersede(deployment("v3", "10.0.0.1:80"), ANN)
        assert [result.partition(":")[0] for _, _, result in await engine.log()] == [
            "rollout 1",
            "Conflict",
            "Conflict",
        ]


async def test_what_is_queued_can_be_taken_out(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await engine.operations.deploy(V2, ANN)
        await engine.step()
        await engine.operations.supersede(V3, ANN)
        for _ in range(2):
            await engine.operations.dequeue("checkout", ANN)
        await engine.ended()
        await engine.step()
        assert engine.rollout().candidate == "v2"


async def test_a_queued_deployment_that_is_not_possible_any_more_says_why_and_breaks_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.until(Phase.SHIFTING)
        await engine.operations.supersede(V3, ANN)
        (stable,) = (each for each in engine.controller.books.versions("checkout") if each.name == "initial")
        taken = (*engine.publisher.own_endpoints("checkout"), parse_endpoint("10.0.0.21:80"))
        await engine.backends.place("checkout", stable.name, taken, ANN)
        await engine.ended()
        await engine.step()
        queued = engine.controller.books.queued["checkout"]
        assert "10.0.0.21:80 belongs to 'initial'" in queued.fault
        assert not engine.controller.in_progress("checkout")
        await engine.operations.deploy(V4, ANN)
        assert (engine.rollout().candidate, engine.controller.books.queued) == ("v4", {})


async def test_the_old_version_that_is_still_warm_comes_back_when_it_is_deployed_again(tmp_path: Path) -> None:
    old = deployment("initial", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")
    async with running(tmp_path) as engine:
        engine.connect()
        await retained(engine)
        for _ in range(2):
            await engine.operations.deploy(old, ANN)
            assert engine.controller.books.weight_bp("checkout", "initial") == 10_000  # before any Envoy is asked
        assert (await engine.ended()).state.reason.startswith("initial was deployed again by ann")


async def retained(engine: Engine) -> None:
    """Bring a rollout to where the old version is kept warm."""
    await engine.operations.deploy(deployment("v2", "10.0.0.11:80", keep_stable="1h"), ANN)
    await engine.until(Phase.SHIFTING)
    while engine.rollout().state.phase is Phase.SHIFTING:
        await engine.order(Command.PROMOTE_FULL)
        await engine.step()
    assert engine.rollout().state.phase is Phase.RETAINING


async def test_undo_and_supersede_take_back_a_rollout_whose_old_version_is_still_warm(tmp_path: Path) -> None:
    for folder in ("undo", "supersede"):
        async with running(tmp_path / folder) as engine:
            engine.connect()
            await retained(engine)
            if folder == "undo":
                await engine.operations.undo("checkout", ANN)
            else:
                await engine.operations.supersede(V3, ANN)
            assert engine.controller.books.weight_bp("checkout", "initial") == 10_000
            await engine.ended()
            await engine.step()
            assert engine.rollout().candidate == ("v2" if folder == "undo" else "v3")


async def test_a_rollout_that_cannot_be_taken_back_any_more_ends_before_the_next_one(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await retained(engine)
        engine.now_s += 3600
        await engine.until(Phase.DRAINING)
        with pytest.raises(Conflict, match="ask again when the rollout has ended"):
            await engine.operations.undo("checkout", ANN)
        await engine.operations.supersede(V3, ANN)
        await engine.ended()
        await engine.step()
        assert (engine.rollout().stable, engine.rollout().candidate) == ("v2", "v3")


async def shifted(engine: Engine, *versions: str) -> None:
    """Complete a rollout to each of these versions."""
    for number, version in enumerate(versions, start=1):
        await engine.operations.deploy(deployment(version, f"10.0.{number}.1:80"), ANN)
        await engine.completed()


async def test_undo_of_a_rollout_in_progress_takes_it_back_once(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.until(Phase.SHIFTING)
        assert engine.operations.nothing_to_undo("checkout") == ""
        assert engine.operations.nothing_to_undo("checkout", "v2") == "rollout 1 goes to 'v2' already"
        undone = await engine.operations.undo("checkout", BOB)
        assert engine.operations.nothing_to_undo("checkout") == "rollout 1 goes back to 'initial' already"
        assert (undone.state.loser, undone.state.reason) == (Role.CANDIDATE, "undone by bob")
        await engine.operations.undo("checkout", BOB)
        await engine.ended()
        assert await engine.operations.undo("checkout", BOB) == engine.rollout()
        assert engine.rollout().id == 1


async def test_undo_goes_back_to_the_version_before_in_one_stage_within_the_window(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await shifted(engine, "v1", "v2")
        assert engine.operations.nothing_to_undo("checkout") == ""
        for _ in range(2):
            back = await engine.operations.undo("checkout", BOB)
        assert engine.operations.nothing_to_undo("checkout") == (
            "rollout 3 goes back to 'v1' already; `rollout undo checkout --to v2` stays with 'v2' after all"
        )
        assert (back.id, back.candidate, back.origin, len(back.strategy.stages)) == (3, "v1", Origin.UNDO, 1)
        assert engine.controller.books.addresses("checkout", "v1") == ("10.0.1.1:80",)
        await engine.completed()
        # To undo twice is to undo once: traffic must not swing back to what was undone.
        assert (await engine.operations.undo("checkout", BOB)).id == 3
        assert engine.controller.books.stable("checkout") == "v1"
        assert engine.operations.nothing_to_undo("checkout") == (
            "'v1' has the traffic already since rollout 3, an undo; "
            "`rollout undo checkout --to VERSION` goes to another one (v2, initial)"
        )
        assert engine.operations.nothing_to_undo("checkout", "v2") == ""


async def test_undo_after_the_window_goes_through_the_stages(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await shifted(engine, "v1", "v2")
        engine.now_s += 3600
        back = await engine.operations.undo("checkout", BOB)
        assert [stage.weight_bp for stage in back.strategy.stages] == [5_000, 10_000]


async def test_undo_to_another_version_remembers_where_it_ran_over_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await shifted(engine, "v1", "v2", "v3")
        now_s = engine.now_s
    async with running(tmp_path, now_s=now_s) as engine:
        assert [each.name for each in engine.controller.books.past_versions("checkout")] == ["v2", "v1", "initial"]
        back = await engine.operations.undo("checkout", BOB, "v1")
        assert (back.candidate, engine.controller.books.addresses("checkout", "v1")) == ("v1", ("10.0.1.1:80",))
        assert (await engine.operations.undo("checkout", BOB, "v1")).id == back.id
        with pytest.raises(Conflict, match="abort it first, then undo --to v2"):
            await engine.operations.undo("checkout", BOB, "v2")


async def test_undo_to_a_version_that_was_taken_back_needs_the_stages(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.until(Phase.SHIFTING)
        await engine.order(Command.ABORT)
        await engine.ended()
        assert len((await engine.operations.undo("checkout", ANN, "v2")).strategy.stages) == 2


async def test_undo_back_to_the_endpoints_of_envoy_configs_only_while_they_are_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.completed()
        now_s = engine.now_s
    async with running(tmp_path, files(checkout={"eu/eu-1": ("10.0.0.9:80",)}), now_s) as engine:
        with pytest.raises(Conflict, match=r"other endpoints .*10\.0\.0\.1:80"):
            await engine.operations.undo("checkout", ANN)
        given = (parse_endpoint("10.0.0.5:80"),)
        back = await engine.operations.undo("checkout", ANN, "initial", given)
        assert (back.candidate, engine.controller.books.addresses("checkout", "initial")) == (
            "initial",
            ("10.0.0.5:80",),
        )


async def test_undo_to_what_nobody_knows_says_what_is_known(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        with pytest.raises(Conflict, match="nothing to undo"):
            await engine.operations.undo("checkout", ANN)
        engine.connect()
        await shifted(engine, "v1")
        with pytest.raises(Unknown, match=r"'v7' .* \(known: initial\); give its backends with --endpoint"):
            await engine.operations.undo("checkout", ANN, "v7")


async def test_what_takes_traffic_back_waits_for_no_disk(tmp_path: Path) -> None:
    for folder in ("undo", "supersede"):
        async with running(tmp_path / folder) as engine:
            engine.connect()
            await engine.operations.deploy(V2, ANN)
            await engine.until(Phase.SHIFTING)
            engine.saving.cancel()
            operations = engine.operations
            work = operations.undo("checkout", ANN) if folder == "undo" else operations.supersede(V3, ANN)
            asking = asyncio.get_running_loop().create_task(work)
            await asyncio.sleep(0)
            weights = {each.name: each.weight_bp for each in engine.publisher.traffic("checkout").versions}
            assert weights == {"initial": 10_000, "v2": 0}
            assert engine.controller.books.queued == {}  # it is not saved yet
            asking.cancel()


async def test_retry_begins_the_same_again(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        first = await engine.operations.deploy(V2, ANN)
        with pytest.raises(Conflict, match="in progress"):
            await engine.operations.retry("checkout", ANN)
        await engine.until(Phase.SHIFTING)
        await engine.order(Command.ABORT)
        await engine.ended()
        for _ in range(2):
            again = await engine.operations.retry("checkout", BOB)
        assert (again.id, again.candidate, again.strategy) == (2, "v2", first.strategy)
        assert engine.controller.books.addresses("checkout", "v2") == ("10.0.0.11:80", "10.0.0.12:80")
        await engine.completed()
        assert (await engine.operations.retry("checkout", BOB)).id == 2


async def test_only_past_versions_are_forgotten(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await shifted(engine, "v1")
        with pytest.raises(Conflict, match="has the traffic"):
            await engine.operations.forget("checkout", "v1", ANN)
        await engine.operations.deploy(V2, ANN)
        with pytest.raises(Conflict, match="in progress; wait for its end, or abort it"):
            await engine.operations.forget("checkout", "v2", ANN)
        await engine.operations.forget("checkout", "initial", ANN)
        with pytest.raises(Unknown, match="it has none"):
            await engine.operations.forget("checkout", "initial", ANN)
        now_s = engine.now_s
    async with running(tmp_path, now_s=now_s) as engine:
        assert engine.controller.books.past_versions("checkout") == ()


async def test_past_versions_are_bounded(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        for number in range(25):
            await engine.operations.deploy(deployment(f"v{number}", "10.0.0.11:80"), ANN)
            await engine.order(Command.ABORT)
            await engine.ended()
        known = [each.name for each in engine.controller.books.past_versions("checkout")]
        assert known == [f"v{number}" for number in range(24, 4, -1)]
        assert {each.name for each in (await engine.store.load()).past} == set(known)


async def test_rollouts_of_services_in_one_route_are_independent(tmp_path: Path) -> None:
    names = ("cart", "checkout", "search")
    shop = files(**{name: {"eu/eu-1": (f"10.1.{number}.1:80",)} for number, name in enumerate(names)})
    async with running(tmp_path, shop) as engine:
        engine.connect()
        for number, name in enumerate(names):
            await engine.operations.deploy(deployment("v2", f"10.2.{number}.1:80", service=name), ANN)
        for name in names:
            await engine.until(Phase.SHIFTING, service=name)
        await engine.order(Command.ABORT, service="cart")
        await engine.order(Command.PAUSE, service="search")
        await engine.completed("checkout")
        await engine.ended("cart")
        phases = {name: engine.rollout(name).state.phase for name in names}
        assert phases == {"cart": Phase.ROLLED_BACK, "checkout": Phase.COMPLETED, "search": Phase.PAUSED}
        weights = {name: engine.controller.books.weight_bp(name, "v2") for name in names}
        assert weights == {"cart": 0, "checkout": 10_000, "search": 5_000}


async def test_an_approval_before_the_stage_has_passed_is_told(tmp_path: Path) -> None:
    stages = [{"weight": "50%", "approve": True}, "100%"]
    asks = {"version": "v2", "endpoints": ["10.0.0.11:80"], "strategy": {"stages": stages}}
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(parse_deployment({"service": "checkout", **asks}), ANN)
        await engine.until(Phase.SHIFTING)
        for approved in (False, True):
            moment = Moment(engine.now_s, engine.controller.users())
            view = rollout_view(engine.controller, engine.rollout(), moment)
            assert (view["stage"], view["approved"]) == (0, approved)
            await engine.order(Command.APPROVE, "bob")


async def test_the_log_has_who_asked_for_what_and_what_came_of_it(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await engine.operations.adopt("checkout", "v1", ANN)
        await engine.operations.adopt("checkout", "v1", ANN)
        with pytest.raises(InvalidSpec):
            await engine.operations.adopt("checkout", "v 1", ANN)
        await engine.operations.deploy(V2, BOB)
        await engine.order(Command.PAUSE, "cat")
        await engine.order(Command.PAUSE, "cat")
        with pytest.raises(Conflict):
            await engine.order(Command.APPROVE, "dan")
        log = await engine.log()
        assert log[:-1] == [
            ("adopt", "ann", "done"),
            ("adopt", "ann", "no change"),
            ("deploy", "bob", "rollout 1"),
            ("pause", "cat", "done"),
            ("pause", "cat", "no change"),
        ]
        verb, by, result = log[-1]
        assert (verb, by, result.startswith("Conflict: cannot approve")) == ("approve", "dan", True)
        assert len(engine.told) == len(log)


async def test_the_log_keeps_a_bounded_number_for_each_service(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        for _ in range(1_010):
            await engine.operations.adopt("checkout", "initial", ANN)
            if engine.controller.saver.unsaved("") > 40:
                await engine.saved()
        await engine.operations.adopt("checkout", "v1", BOB)
        log = await engine.log()
        assert (len(log), log[-1]) == (1_000, ("adopt", "bob", "done"))
