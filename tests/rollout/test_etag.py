"""Changes that are made only if nothing has changed since somebody looked, and for one stage only."""

from pathlib import Path
from typing import Any

import pytest

from rollout.api.server import STATUS
from rollout.controller import Order
from rollout.errors import Conflict, Outdated, Rehearsed
from rollout.rights import Asker
from rollout.standing import tag
from rollout.state import Command, Phase
from tests.rollout.operating import ANN, deployment, running
from tests.rollout.served import Running, settings_in
from tests.rollout.served import running as serving

CHECKOUT = "/v1/services/checkout"
V2 = {"version": "v2", "endpoints": ["127.0.0.1:9002"]}
TRYING = Asker("ann", rehearses=True)


async def tag_of(server: Running, path: str = CHECKOUT) -> str:
    async with server.http.get(path) as answer:
        assert answer.status == 200
        return answer.headers["ETag"]


async def post(server: Running, path: str, body: object, only_if: str) -> tuple[int, Any]:
    async with server.http.post(path, json=body, headers={"If-Match": only_if}) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_a_change_is_made_only_if_the_service_is_as_it_was_seen(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as server:
        first = await tag_of(server)
        assert first == await tag_of(server) == await tag_of(server, f"{CHECKOUT}/versions")
        assert (await post(server, f"{CHECKOUT}/adopt", {"version": "v1"}, first))[0] == 200
        second = await tag_of(server)
        assert second != first
        status, answer = await post(server, f"{CHECKOUT}/rollouts", V2, first)
        assert (status, answer["title"], second in answer["detail"]) == (412, "Outdated", True)
        assert (await post(server, f"{CHECKOUT}/rollouts?dry_run=true", V2, first))[0] == 412
        for lost in ("", '""', ","):  # what a script sends whose variable is empty
            assert (await post(server, f"{CHECKOUT}/rollouts", V2, lost))[0] in (400, 412)
        assert (await post(server, f"{CHECKOUT}/rollouts", V2, f"{first}, {second}"))[0] == 201
        assert (await post(server, f"{CHECKOUT}/commands/abort", {}, "*"))[0] == 200


async def test_a_strategy_has_an_etag_of_its_own(tmp_path: Path) -> None:
    path, strategy = "/v1/strategies/slow", {"strategy": {"stages": ["10%", "100%"]}}
    async with serving(settings_in(tmp_path)) as server:
        for only_if, status in (('"1-0"', 412), ('"none"', 201), ('"none"', 412)):
            async with server.http.put(path, json=strategy, headers={"If-Match": only_if}) as answer:
                assert answer.status == status
        known = await tag_of(server, path)
        async with server.http.delete(path, headers={"If-Match": known}) as answer:
            assert answer.status == 200
        assert (await post(server, "/v1/config/reload", {}, known))[0] == 400
        status, answer = await post(server, "/v1/apply", {"documents": []}, known)
        assert (status, "fingerprint" in answer["detail"]) == (400, True)  # each step changes what the next sees


async def test_the_tag_follows_what_people_decide_by(tmp_path: Path) -> None:
    seen = []
    async with running(tmp_path) as engine:
        engine.connect()

        def look() -> None:
            seen.append(tag(engine.controller, "checkout"))

        look()
        await engine.operations.deploy(deployment("v2", "10.0.0.11:80"), ANN)
        look()
        await engine.until(Phase.SHIFTING)
        look()
        await engine.steps(3)  # measured, and nothing decided
        assert tag(engine.controller, "checkout") == seen[-1]
        for command in (Command.PAUSE, Command.RESUME, Command.PROMOTE):
            await engine.order(command)
            look()
        await engine.backends.drain("checkout", "10.0.0.1:80", ANN)
        look()
    assert len(set(seen)) == len(seen) - 1  # to pause and to resume leads back


async def test_it_is_compared_at_the_moment_of_the_change(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(deployment("v2", "10.0.0.11:80"), ANN)
        await engine.until(Phase.SHIFTING)
        asker = Asker("bob", only_if=(tag(engine.controller, "checkout"),))
        answers = engine.survey

        async def meanwhile(query: Any) -> Any:
            engine.controller.obey("checkout", Order(Command.PAUSE, ANN))
            return await answers(query)

        engine.survey = meanwhile
        with pytest.raises(Outdated):
            await engine.backends.drain("checkout", "10.0.0.1:80", asker)
        assert engine.controller.books.backends("checkout") == ()


async def test_promoting_a_stage_twice_goes_one_stage(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(deployment("v2", "10.0.0.11:80", stages=["10%", "50%", "100%"]), ANN)
        await engine.until(Phase.SHIFTING)
        order = Order(Command.PROMOTE, ANN, stage=0)
        rollout = await engine.operations.command("checkout", order)
        assert rollout.state.stage == 1
        with pytest.raises(Conflict, match="the rollout is in stage 2 of 3 now, and this is for stage 1"):
            await engine.operations.command("checkout", order)
        assert engine.rollout().state.stage == 1


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (Command.PROMOTE, "goes from stage 1 of 2 (50 %) to stage 2 of 2 (100 %); all traffic goes to v2"),
        (Command.PROMOTE_FULL, "to stage 2 of 2 (100 %)"),
        (Command.PAUSE, "to a pause in stage 1 of 2 (50 %); v2 gets 50 % of the traffic, initial the rest"),
        (Command.ABORT, "to rolling back; all traffic goes to initial (aborted by ann)"),
    ],
)
async def test_a_rehearsed_command_says_what_the_real_one_does(tmp_path: Path, command: Command, says: str) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(deployment("v2", "10.0.0.11:80"), ANN)
        before = await engine.until(Phase.SHIFTING)
        with pytest.raises(Rehearsed) as told:
            await engine.operations.command("checkout", Order(command, TRYING))
        assert engine.rollout() is before
        assert says in str(told.value)
        after = await engine.order(command)
        assert after.state.phase.replace("_", " ") in str(told.value) or after.state.phase is Phase.SHIFTING


def test_what_has_changed_is_answered_with_412() -> None:
    assert STATUS[Outdated] == 412
