"""A server that starts after one that could not save what it had taken back."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rollout.demo.processes import until
from rollout.record import PutRollout, Rollout
from rollout.settings import Settings
from rollout.state import Phase, Role, State
from rollout.store.reserve import open_reserve
from rollout.store.sqlite import open_store
from tests.rollout.test_app import CHECKOUT, V2, Running, resources, running, write


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write(tmp_path / "configs", resources())
    return Settings(tmp_path / "configs", tmp_path / "data", "127.0.0.1:0", "127.0.0.1:0")


async def begun(settings: Settings, strategy: dict[str, Any]) -> Rollout:
    """Leave a rollout in mid-way, as a server does that is killed; return what of it was saved."""
    async with running(settings) as server:
        assert (await server.post(f"{CHECKOUT}/rollouts", {**V2, "strategy": strategy}))[0] == 201
        await server.post(f"{CHECKOUT}/commands/pause", {})
    store = await open_store(settings.data)
    (rollout,) = (await store.load()).rollouts
    await store.close()
    return rollout


def note(settings: Settings, rollout: Rollout, revisions_later: int) -> None:
    back = State(Phase.ROLLING_BACK, 9.0, loser=Role.CANDIDATE, reason="errors of the candidate")
    names = (rollout.service, rollout.id, rollout.stable, rollout.candidate, rollout.strategy)
    taken = Rollout(*names, back, rollout.revision + revisions_later, rollout.started_at, rollout.changed_at)
    with closing(open_reserve(settings.data)) as reserve:
        reserve.note([PutRollout(taken, None)])


async def rolled_back(server: Running) -> bool:
    return bool((await server.get(CHECKOUT))[1]["rollout"]["phase"] == "rolled_back")


@pytest.mark.parametrize("pace", ["immediate", "gradual"])
async def test_it_goes_on_taking_back_before_anybody_is_served(settings: Settings, pace: str) -> None:
    note(settings, await begun(settings, {"abort": pace}), revisions_later=3)
    async with running(settings) as server:
        phase = (await server.get(CHECKOUT))[1]["rollout"]["phase"]
        assert phase in ("rolling_back", "draining", "removing", "rolled_back")
        await until(lambda: rolled_back(server), within_s=60, what="the candidate to be removed")
        rollout = (await server.get(CHECKOUT))[1]["rollout"]
    assert "the server before, which could not save it: errors of the candidate" in rollout["reason"]
    async with running(settings) as server:
        assert await rolled_back(server)


async def test_a_note_of_what_was_saved_since_changes_nothing(settings: Settings) -> None:
    note(settings, await begun(settings, {}), revisions_later=0)
    async with running(settings) as server:
        assert (await server.get(CHECKOUT))[1]["rollout"]["phase"] == "paused"
