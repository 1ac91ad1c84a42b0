"""Backends that two services share: nobody is told to stop what another one uses."""

from pathlib import Path

from rollout.api.backstage import Moment
from rollout.api.views import rollout_view
from rollout.spec import parse_deployment
from rollout.state import Command, Phase
from tests.rollout.operating import ANN, QUICK, Engine, files, running

SHARED = "10.0.0.9:80"
TEXT = files(checkout={"eu/eu-1": ("10.0.0.1:80",)}, pay={"eu/eu-1": (SHARED,)})
V2 = parse_deployment(
    {
        "service": "checkout",
        "version": "v2",
        "endpoints": [f"{SHARED}@eu/eu-1", "10.0.0.8:80"],
        "strategy": QUICK,
    }
)


def told(engine: Engine) -> dict[str, object]:
    moment = Moment(engine.now_s, engine.controller.users())
    found = rollout_view(engine.controller, engine.rollout(), moment)["drain"]
    assert found is not None
    return {"still_used": found["still_used"], "safe_to_stop": found["safe_to_stop"]}


async def test_what_another_service_uses_is_not_safe_to_stop_and_terminate_is_not_told_of_it(tmp_path: Path) -> None:
    async with running(tmp_path, text=TEXT) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.until(Phase.SHIFTING)
        await engine.order(Command.ABORT)
        rollout = await engine.until(Phase.REMOVING)
        assert engine.controller.endpoints(rollout).candidate == ("10.0.0.8:80",)
        assert told(engine) == {"still_used": {SHARED: ["pay initial"]}, "safe_to_stop": False}


async def test_backends_of_one_service_alone_are_safe_to_stop_at_the_end(tmp_path: Path) -> None:
    alone = V2.model_copy(update={"endpoints": V2.endpoints[1:]})
    async with running(tmp_path, text=TEXT) as engine:
        engine.connect()
        await engine.operations.deploy(alone, ANN)
        await engine.until(Phase.SHIFTING)
        await engine.order(Command.ABORT)
        await engine.ended()
        assert told(engine) == {"still_used": {}, "safe_to_stop": True}
