"""Writes the recording of a rollout in waves anew, on proxies without I/O: python -m tests.replay.record_waves."""

import asyncio
import tempfile
from pathlib import Path

from rollout.replay import dump_recording, recording
from rollout.spec import Strategy
from rollout.state import Command, Phase
from tests.rollout.fleet import locations
from tests.rollout.proxies import engine, proxy

FILE = Path(__file__).parent / "waves.json"
STRATEGY = {
    "waves": [{"locations": ["eu-1"], "stages": ["5%", "100%"]}, {"locations": "all"}],
    "on_failure": "location",
    "stages": [{"weight": weight, "hold": "1s"} for weight in ("20%", "100%")],
    "gate": {"warmup": "0s", "margin": "10%"},
    "drain_timeout": "0s",
}
BAD = "us/us-1"


async def record(folder: Path) -> None:
    """One location fails and is tried again, one is paused and promoted; then all have passed."""
    names = {location.replace("/", "-"): location for location in locations(4)}
    async with engine(folder, lambda cache: {name: proxy(cache, name, each) for name, each in names.items()}) as world:
        await world.deploy(Strategy.model_validate(STRATEGY))
        bad = world.proxies[BAD.replace("/", "-")]
        bad.errors = 0.3
        await world.until(lambda state: state.wave == 1)
        await world.tick()
        await world.obey(Command.PAUSE, "ap-1")
        await world.until(lambda state: state.lanes[BAD].phase is Phase.ROLLED_BACK)
        await world.obey(Command.PROMOTE, "ap-1")
        await world.until(lambda state: state.phase is Phase.PAUSED)
        bad.errors = 0.0
        await world.obey(Command.RESUME)
        await world.until(lambda state: state.phase is Phase.COMPLETED)
        entries = await world.store.journal("checkout", 1)
        FILE.write_bytes(dump_recording(recording(world.rollout, entries)))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(record(Path(folder)))


if __name__ == "__main__":
    main()
