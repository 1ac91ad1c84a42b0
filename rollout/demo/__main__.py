"""`make demo`: a good version goes out, a broken one comes back, and a report proves that no request was lost."""

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rollout.client import path_of
from rollout.demo.backend import Behaviour
from rollout.demo.load import PROXY, LoadPlan, Tally, mix, run_load
from rollout.demo.picture import picture
from rollout.demo.processes import until
from rollout.demo.world import SERVICE, Cast, World
from rollout.errors import RolloutError, Unavailable
from rollout.screen import service_panel

BACKENDS = {"v1": 3, "v2": 3, "v3": 3}
BEHAVIOUR = {
    "v1": Behaviour(median_ms=20),
    "v2": Behaviour(median_ms=20),
    "v3": Behaviour(median_ms=20, error_share=0.3),
}
RATE_PER_S = 300
USUAL_REQUESTS = 1500
USUAL_WITHIN_S = 30.0
POLL_S = 0.05
LIMIT_S = 150.0
SHARES_OVER_S = 5.0


@dataclass(slots=True)
class Show:
    """What the screen shows: what was done, the service as the API has it, and the answers that the clients got."""

    console: Console
    tally: Tally
    started_s: float = field(default_factory=time.monotonic)
    service: Mapping[str, Any] | None = None
    marks: list[tuple[float, str]] = field(default_factory=list)
    live: Live | None = None

    def say(self, text: str, style: str = "") -> None:
        self.console.print(Text.assemble((f"{time.monotonic() - self.started_s:6.1f} s  ", "dim"), (text, style)))

    def update(self, service: Mapping[str, Any]) -> None:
        self.service = service
        if self.live is not None:
            self.live.update(self.screen())

    def screen(self) -> Group:
        parts = [] if self.service is None else [service_panel(self.service)]
        return Group(*parts, self._answers())

    def _answers(self) -> Text:
        shares = self.tally.shares(since_s=time.time() - SHARES_OVER_S)
        now = ", ".join(f"{version} {100 * share:.1f} %" for version, share in sorted(shares.items()))
        dropped = (f"dropped: {self.tally.dropped}", "bold red" if self.tally.dropped else "bold green")
        return Text.assemble(
            f"{self.tally.requests:,} requests, answered in the last 5 s by {now or 'nobody'}; ", dropped
        )


async def main(*, keep: bool, drawing: Path | None) -> int:
    """Run the demo and return its exit code: 0 only when all that it is to prove holds."""
    console = Console()
    show = Show(console, Tally())
    with tempfile.TemporaryDirectory(prefix="rollout-demo-") as folder:
        show.say("starting a server, 3 Envoys (two SotW, one delta) and 9 backends: v1, v2, and v3, which is broken")
        try:
            async with World(Path(folder), Cast(BACKENDS, BEHAVIOUR)) as world:
                passed = await _play(world, show)
                if drawing is not None:
                    await asyncio.to_thread(drawing.write_text, picture(show.tally.by_second, show.marks))
                if keep:
                    await _linger(world, show)
                return 0 if passed else 1
        except Unavailable as error:
            console.print(f"error: {error}", style="red", markup=False)
            return 1


async def _play(world: World, show: Show) -> bool:
    stop = asyncio.Event()
    plan = LoadPlan(await world.targets(), rate_per_s=RATE_PER_S, paths=mix())
    show.say(f"{RATE_PER_S} requests/s through them, fast, slow and streaming, from clients that never retry")
    async with asyncio.TaskGroup() as group:
        load = group.create_task(run_load(plan, show.tally.record, stop))
        live = Live(show.screen(), console=show.console, refresh_per_second=4, transient=True)
        with live if show.console.is_terminal else contextlib.nullcontext():
            show.live = live if show.console.is_terminal else None
            await world.client.post(path_of("services", SERVICE, "adopt"), {"version": "v1"})
            await _get_to_know(world, show)
            good = await _roll(world, show, "v2", "v1")
            broken = await _roll(world, show, "v3", "v3")
        stop.set()
        await load
    return await _report(world, show, good, broken)


async def _get_to_know(world: World, show: Show) -> None:
    """Wait until the server has seen what is usual for v1: a service that was just started has no past yet."""

    async def known() -> bool:
        service = await world.service()
        show.update(service)
        return service["history"] is not None and service["history"]["requests"] >= USUAL_REQUESTS

    await until(known, within_s=USUAL_WITHIN_S, what="the server to see what is usual for v1")
    usual = (await world.service())["history"]
    latency = f"{usual['p50_ms']:.0f} ms in the median, p99 {usual['p99_ms']:.0f} ms"
    show.say(f"what is usual for v1: {usual['requests_per_s']:.0f} requests/s, {latency}")


async def _roll(world: World, show: Show, version: str, loser: str) -> Mapping[str, Any]:
    """Deploy a version, kill the losers' backends the moment they are reported safe, return the rollout at its end."""
    show.say(f"$ rollout deploy {SERVICE} {version} --endpoint ...", "bold")
    await world.deploy(version)
    show.marks.append((time.time(), f"deploy {version}"))
    told, reason = ("", 0), ""
    async with asyncio.timeout(LIMIT_S):
        while True:
            service = await world.service()
            rollout = service["rollout"]
            show.update(service)
            step = (rollout["phase"], rollout["stage"])
            if step != told:
                show.say(_step(rollout, rollout["reason"] if rollout["reason"] != reason else ""))
                told, reason = step, rollout["reason"]
            if rollout["drain"] and rollout["drain"]["safe_to_stop"]:
                break
            await asyncio.sleep(POLL_S)
    await asyncio.gather(*(backend.kill() for backend in world.backends[loser]))
    show.marks.append((time.time(), f"{loser} stopped"))
    show.say(f"{loser} is reported safe to stop: its backends are killed (SIGKILL)", "bold")
    return dict(rollout)


def _step(rollout: Mapping[str, Any], reason: str) -> str:
    phase = rollout["phase"].replace("_", " ")
    weight = f" {rollout['weight_percent']:g} %" if phase == "shifting" else ""
    return f"{rollout['candidate']} {phase}{weight}" + (f": {reason}" if reason else "")


async def _report(world: World, show: Show, good: Mapping[str, Any], broken: Mapping[str, Any]) -> bool:
    tally, console = show.tally, show.console
    table = Table(title="Answers", show_edge=False)
    for column in ("status", "made by", "requests"):
        table.add_column(column, justify="right")
    for (status, maker), count in sorted(tally.answers.items(), key=lambda each: (str(each[0][1]), each[0][0])):
        table.add_row(str(status), "an Envoy" if maker == PROXY else maker, f"{count:,}")
    console.print(table)
    for rollout in (good, broken):
        console.print(await _timing(world, rollout))
    back_s = await _seconds_to_roll_back(world, tally, broken)
    bad = tally.bad.get("v3", 0)
    console.print(f"bad answers of v3 served: {bad}")
    console.print(f"from the first of them to the last Envoy's ACK of the rollback: {back_s:.1f} s")
    console.print(f"requests: {tally.requests:,}")
    console.print(f"dropped: {tally.dropped}", style="bold red" if tally.dropped else "bold green")
    for drop in tally.first_drops:
        console.print(f"  {drop}", markup=False)
    claims = {
        "v2 went through": good["outcome"] == "completed",
        "v3 was taken back": broken["outcome"] == "rolled_back",
        "nothing was dropped": tally.dropped == 0,
        "only v3 answered badly": set(tally.bad) <= {"v3"},
    }
    for claim, holds in claims.items():
        console.print(f"[{'green' if holds else 'red'}]{'yes' if holds else 'NO '}[/] {claim}")
    return all(claims.values())


async def _timing(world: World, rollout: Mapping[str, Any]) -> str:
    """Say how long each step of a rollout took."""
    told = await world.client.get(path_of("services", SERVICE, "rollouts", rollout["id"]))
    steps: list[tuple[str, datetime]] = []
    for entry in told["journal"]:
        name = f"{entry['weight_percent']:g} %" if entry["phase"] == "shifting" else entry["phase"].replace("_", " ")
        if not steps or steps[-1][0] != name:
            steps.append((name, datetime.fromisoformat(entry["at"])))
    spans = [f"{name} {(after - at).total_seconds():.1f} s" for (name, at), (_, after) in pairwise(steps)]
    whole = (steps[-1][1] - steps[0][1]).total_seconds()
    return f"{rollout['candidate']} {rollout['outcome'].replace('_', ' ')} in {whole:.1f} s: {', '.join(spans)}"


async def _seconds_to_roll_back(world: World, tally: Tally, rollout: Mapping[str, Any]) -> float:
    """Return the seconds from the first bad answer to when every Envoy had ACKed the rollback; NaN without either."""
    told = await world.client.get(path_of("services", SERVICE, "rollouts", rollout["id"]))
    entries = (each for each in told["journal"] if each["phase"] == "rolling_back" and each["converged"])
    acked = next((datetime.fromisoformat(each["at"]).timestamp() for each in entries), float("nan"))
    return acked - tally.first_bad_at_s.get("v3", float("nan"))


async def _linger(world: World, show: Show) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    show.console.print(f"\nIt goes on running; try:  export ROLLOUT_SERVER=http://{world.admin}", markup=False)
    show.console.print("  rollout status checkout; rollout explain checkout; rollout fleet      (end it with Ctrl-C)")
    for envoy in world.envoys:
        show.console.print(f"  {envoy.name} takes requests at {(await envoy.listeners())['edge']}", markup=False)
    await stop.wait()


def run() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end, for the CLI")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw who answered what share, as SVG")
    wanted = parser.parse_args()
    try:
        return asyncio.run(main(keep=wanted.keep, drawing=wanted.picture))
    except KeyboardInterrupt:
        return 130
    except RolloutError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(run())
