"""Documents applied to an engine: over restarts and undos, with sources of backends, and one fault among many."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rollout.backends import Backends
from rollout.declared.steps import Wishes
from rollout.declaring import Declaring, Planned, at_stake
from rollout.discovering import Around, Discovering
from rollout.discovery.answer import Answer
from rollout.discovery.source import Discover
from rollout.errors import InvalidSpec, Rehearsed, Unavailable
from rollout.ledger import Ledger
from rollout.rights import Asker
from rollout.spec import parse_endpoint
from rollout.state import Phase
from rollout.strategies import Strategies
from tests.rollout.operating import ANN, Engine, running

QUICK = {"kind": "strategy", "name": "quick", "stages": ["50%", "100%"], "drain_timeout": "1s"}
V2, V3 = ("10.0.1.1:80@eu/eu-1",), ("10.0.2.1:80",)
FOUND: dict[str, tuple[str, ...]] = {"dns checkout.internal": ("10.0.3.1:80", "10.0.3.2:80")}


def service(version: str, *endpoints: str, **more: Any) -> dict[str, Any]:
    given = {"endpoints": list(endpoints)} if endpoints else {}
    return {"kind": "service", "name": "checkout", "version": version, "strategy": "quick", **given, **more}


async def found(discover: Discover, _before: Answer | None) -> Answer:
    endpoints = FOUND.get(discover.label)
    if endpoints is None:
        raise Unavailable("no such name")
    return Answer(tuple(map(parse_endpoint, endpoints)))


def declaring(engine: Engine) -> Declaring:
    ledger = Ledger(engine.controller.saver, engine.wall, engine.told.append)
    around = Around(lambda _: None, found, lambda: engine.now_s, engine.wall, lambda pause_s: pause_s, lambda _: None)
    backends = Backends(engine.controller, ledger)
    discovering = Discovering(engine.controller, backends, ledger, around)
    strategies = Strategies(engine.controller, ledger)
    return Declaring(engine.controller, engine.operations, backends, strategies, discovering)


async def apply(engine: Engine, *documents: Mapping[str, Any], by: Asker = ANN, **wishes: bool) -> list[str]:
    """Apply documents; return what was done."""
    made = plan(engine, *documents, **wishes)
    await declaring(engine).apply(made, by)
    return [step.action.value for step in made.steps]


def plan(engine: Engine, *documents: Mapping[str, Any], **wishes: bool) -> Planned:
    return declaring(engine).plan(documents, Wishes(**wishes), engine.controller.services())


async def test_what_was_applied_is_so_after_a_restart_at_any_time(tmp_path: Path) -> None:
    documents = (QUICK, service("v2", *V2))
    async with running(tmp_path) as engine:
        assert await apply(engine, *documents) == ["create", "rollout"]
    async with running(tmp_path) as engine:
        engine.connect()
        assert await apply(engine, *documents) == ["none", "none"]
        await engine.completed()
        assert await apply(engine, *documents) == ["none", "none"]
        assert engine.controller.books.stable("checkout") == "v2"


async def test_a_version_that_was_undone_is_not_deployed_again_by_itself(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        documents = (QUICK, service("v2", *V2))
        await apply(engine, *documents)
        await engine.completed()
        await engine.operations.undo("checkout", ANN)
        assert await apply(engine, *documents) == ["none", "held"]
        await engine.completed()
        assert engine.controller.books.stable("checkout") == "initial"
        assert await apply(engine, *documents) == ["none", "held"]
        assert await apply(engine, *documents, retry=True) == ["none", "rollout"]


async def test_going_back_to_the_version_before_takes_back_what_is_in_progress(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await apply(engine, QUICK, service("v2", *V2))
        await engine.completed()
        await apply(engine, service("v3", *V3))
        await engine.until(Phase.SHIFTING)
        back = service("v2", *V2)
        assert await apply(engine, back) == ["waits"]
        assert await apply(engine, back, supersede=True) == ["supersede"]
        assert await apply(engine, back) == ["none"]
        await engine.ended()
        assert engine.controller.books.stable("checkout") == "v2"
        assert await apply(engine, service("v3", *V3)) == ["held"]


async def test_backends_are_found_by_a_source_that_a_document_names(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        source = {"dns": {"name": "checkout.internal", "port": 80, "type": "A"}}
        documents = (QUICK, service("v2", discover=source))
        assert await apply(engine, *documents) == ["create", "rollout"]
        assert engine.controller.books.addresses("checkout", "v2") == ("10.0.3.1:80", "10.0.3.2:80")
        assert await apply(engine, *documents) == ["none", "none"]
        await engine.completed()
        assert await apply(engine, *declaring(engine).export(("checkout",))) == ["none", "none"]
        other = service("v2", discover={**source, "every": "30s"})
        assert await apply(engine, other) == ["backends"]
        assert await apply(engine, other) == ["none"]
        assert await apply(engine, service("v2", "10.0.3.1:80", "10.0.3.2:80")) == ["backends"]
        assert await apply(engine, service("v2", "10.0.3.1:80", "10.0.3.2:80")) == ["none"]


async def test_a_step_that_fails_stops_no_other_and_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        gone = {"dns": {"name": "gone.internal", "port": 80, "type": "A"}}
        with pytest.raises(Unavailable, match=r"1 of 2 changes are done.*service/checkout: discover.*no such name"):
            await apply(engine, QUICK, service("v2", discover=gone))
        assert await apply(engine, QUICK, service("v2", *V2)) == ["none", "rollout"]


async def test_a_rehearsal_changes_nothing_and_a_plan_names_what_changes(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        documents = (QUICK, service("v2", *V2))
        assert at_stake(plan(engine, *documents)) == (None, "checkout")
        with pytest.raises(Rehearsed, match="strategy/quick: is added; service/checkout: rollout initial -> v2"):
            await apply(engine, *documents, by=Asker("ann", rehearses=True))
        assert await apply(engine, *documents) == ["create", "rollout"]
        assert at_stake(plan(engine, *documents)) == ("checkout",)  # who may not change it hears so at any time


async def test_what_this_server_cannot_do_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        asks = {"kind": "strategy", "name": "asks", "hooks": [{"at": "rollout", "command": "ask"}]}
        with pytest.raises(InvalidSpec) as refused:
            plan(engine, QUICK, asks, service("v2", *V2, strategy="asks"))
        with pytest.raises(InvalidSpec, match="documents: is empty, and `prune` would remove every strategy"):
            plan(engine, prune=True)
        lines = str(refused.value).splitlines()
        assert [line.partition(": ")[0] for line in lines] == ["documents[1]", "documents[2].strategy"]
