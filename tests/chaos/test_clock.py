"""The wall clock steps by hours: it is for people only, and nothing is late, early or lost by it."""

import os
import re
from pathlib import Path

import pytest

from rollout.demo.processes import until
from rollout.demo.world import Cast, World
from tests.envoy.conftest import UnderLoad

ROOT = Path(__file__).parents[2]
LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib64/faketime/libfaketimeMT.so.1")
QUICK = {
    "stages": [{"weight": weight, "hold": "2s", "timeout": "60s"} for weight in ("20%", "100%")],
    "gate": {"margin": "20%", "warmup": "0s"},
    "keep_stable": "2s",
    "drain_timeout": "30s",
}
CAST = Cast({"v1": 1, "v2": 1}, {}, (("eu/eu-1", False),))
# app.py gives it to what dates steps, certificates, calendars and clients' status.
WALL = re.compile(r"\btime\.time\b|\bdatetime\.now\b|\bdatetime\.today\b|\bdate\.today\b|\butcnow\b")


def faketime() -> Path | None:
    found = (path for pattern in LIBRARIES for path in Path("/").glob(pattern.removeprefix("/")))
    return next(found, None)


def test_wall_time_is_read_where_the_server_is_put_together_and_where_somebody_is_let_in() -> None:
    paths = [*ROOT.glob("rollout/**/*.py"), *ROOT.glob("xds/**/*.py")]
    readers = {str(path.relative_to(ROOT)) for path in paths if WALL.search(path.read_text())}
    access = {f"rollout/access/{name}.py" for name in ("entrance", "founding", "tls")}  # what lets in expires by it
    assert {name for name in readers if not name.startswith("rollout/demo/")} == {"rollout/app.py", *access}


@pytest.mark.envoy
@pytest.mark.skipif("CHAOS" not in os.environ, reason="half a minute: CHAOS=1 runs it, and `make chaos`")
async def test_a_rollout_does_not_notice_that_the_clock_steps(
    tmp_path: Path, under_load: UnderLoad, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = faketime()
    if library is None:
        pytest.skip("no libfaketime to step a server's clock with (Debian's package faketime)")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    async with World(tmp_path, CAST) as world:
        await world.kill_server()
        with monkeypatch.context() as environment:
            environment.setenv("LD_PRELOAD", str(library))
            environment.setenv("FAKETIME_TIMESTAMP_FILE", str(clock))
            environment.setenv("FAKETIME_NO_CACHE", "1")
            environment.setenv("DONT_FAKE_MONOTONIC", "1")
            await world.start_server()
        async with under_load(*await world.targets()) as tally:
            before = await world.deploy("v2", QUICK)

            async def stepped(by: str, percent: float) -> None:
                async def reached() -> bool:
                    rollout = (await world.service())["rollout"]
                    return bool(rollout["phase"] == "shifting" and rollout["weight_percent"] == percent)

                await until(reached, within_s=30, what=f"{percent:g} %")
                clock.write_text(by)

            await stepped("+1h", 20)
            await stepped("-1h", 100)
            service = await world.until_phase("completed", "paused", "rolled_back", within_s=90)
            for backend in world.backends["v1"]:
                await backend.kill()
    assert service["rollout"]["phase"] == "completed", service["rollout"]["reason"]
    assert service["rollout"]["drain"]["timed_out"] is False
    assert service["rollout"]["changed_at"] < before["started_at"], "the clock was not stepped"
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops
