"""What it costs to serve a fleet: the server's CPU time for each proxy, beside the floor of its transport.

python bench/fanout.py [--proxies 100 --proxies 1000] [--sizes 10x10,200x50] [--protocols sotw,delta] [--pushes N]
                       [--json | --profile]

The floor is a server on the same transport that answers canned bytes to requests it does not look at. Both serve at
the same time and are pushed to in turn, so that a busy machine slows both down alike; ratios are of CPU time.
"""

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.pipe import Child
from bench.served import Change, Size

TIMEOUT_S = 60.0
ACKS_EACH = 4  # of clusters, load assignments, listeners and routes, to bring up a proxy
BATCHES = 10  # of proxies that are brought up together
PUSHES, FEWEST_PUSHES, PUSHED_PROXIES = 40, 5, 10_000  # pushes of each kind: 40, or fewer to large fleets
# go-control-plane, microseconds of CPU, measured elsewhere with one HTTP/2 connection per proxy on 2 cores.
GO_SMALL_PUSH_US = (118, 240)
GO_PUSH_US = {
    (Change.WEIGHTS, "10x10"): GO_SMALL_PUSH_US,
    (Change.ENDPOINT, "10x10"): GO_SMALL_PUSH_US,
    (Change.ENDPOINT, "200x50"): (15_000, 15_000),
}
GO_BRING_UP_US = {"200x50": (17_000, 20_000)}


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: what is served, by which protocol, to how many proxies, and how often it is changed."""

    size: Size
    protocol: str
    proxies: int
    pushes: int


@dataclass(frozen=True, slots=True)
class Push:
    """What a push and its ACKs cost in CPU time, and when the ACKs came, from the push on."""

    cpu_s: float
    answered_s: tuple[float, ...]
    resource_bytes: int


@dataclass(slots=True)
class Side:
    """The server or the floor, with its proxies, and what was measured of it."""

    name: str
    server: Child
    proxies: Child
    port: int
    bring_up_us: list[float] = field(default_factory=list)
    memory_bytes: float = 0.0
    lost: int = 0
    reconnects: int = 0


async def measure(case: Case) -> list[dict[str, object]]:
    """Return a row for each kind of change."""
    async with AsyncExitStack() as stack:
        sides = [await _start(case, name, stack) for name in ("server", "floor")]
        await _bring_up(case, sides)
        pushed = {change: await _push_all(case, sides, change) for change in Change}
        for side in sides:
            await _verify(side)
    return [_row(case, sides, change, pushes) for change, pushes in pushed.items()]


async def _start(case: Case, name: str, stack: AsyncExitStack, *options: str) -> Side:
    size = (str(case.size.clusters), str(case.size.endpoints))
    server = await stack.enter_async_context(Child("bench.serving", name, case.protocol, *size, *options))
    proxies = await stack.enter_async_context(Child("bench.proxies", case.protocol))
    return Side(name, server, proxies, (await server.reply(TIMEOUT_S))["port"])


async def _bring_up(case: Case, sides: Sequence[Side]) -> None:
    """Connect all proxies, batch by batch. The first batch warms up what is made only once, and does not count."""
    batches = min(BATCHES, case.proxies)
    sizes = [case.proxies * (number + 1) // batches - case.proxies * number // batches for number in range(batches)]
    for number, count in enumerate(sizes):
        for side in sides:
            cpu_us = await _connect(side, count) / count * 1e6
            if number == 0:
                side.memory_bytes = await _memory_bytes(side)
            else:
                side.bring_up_us.append(cpu_us)
    for side in sides:
        side.memory_bytes = (await _memory_bytes(side) - side.memory_bytes) / (case.proxies - sizes[0])


async def _connect(side: Side, count: int) -> float:
    """Bring up more proxies; return the CPU seconds that this took."""
    await side.server.ask({"answers": ACKS_EACH * count, "timeout_s": TIMEOUT_S})
    connect = {"connect": count, "port": side.port, "timeout_s": TIMEOUT_S / 2}
    said = await side.proxies.ask(connect, TIMEOUT_S)
    if said["waiting"]:
        what = f"{len(said['waiting'])} proxies were not given all by the {side.name}; {said['waiting'][0]}"
        raise SystemExit(f"{what}; why a stream ended last: {said['ended'] or 'none did'}")
    return float((await side.server.reply(TIMEOUT_S))["cpu_s"])


async def _memory_bytes(side: Side) -> float:
    return float((await side.server.ask({"memory": True}))["bytes"])


async def _push_all(case: Case, sides: Sequence[Side], change: Change) -> dict[str, list[Push]]:
    """Return all pushes of a kind, by side."""
    pushes: dict[str, list[Push]] = {side.name: [] for side in sides}
    for number in range(1, case.pushes + 1):
        for side in sides:
            push = {"push": [change, number], "answers": case.proxies, "timeout_s": TIMEOUT_S}
            said = await side.server.ask(push, TIMEOUT_S * 2)
            pushes[side.name].append(Push(said["cpu_s"], tuple(said["answered_s"]), said["resource_bytes"]))
            side.lost += (await side.proxies.ask({"changed": said["changed"]}))["lost"]
    return pushes


async def _verify(side: Side) -> None:
    """Count the proxies that do not hold in the end what is served."""
    served = await side.server.ask({"served": True})
    said = await side.proxies.ask(served)
    side.lost += said["lost"]
    side.reconnects = said["reconnects"]


def _row(case: Case, sides: Sequence[Side], change: Change, pushes: dict[str, list[Push]]) -> dict[str, object]:
    row: dict[str, object] = {
        "size": str(case.size),
        "protocol": case.protocol,
        "proxies": case.proxies,
        "change": change.value,
        "pushes": case.pushes,
        "resource_bytes": pushes["server"][-1].resource_bytes,
    }
    for side in sides:
        prefix = "" if side.name == "server" else "floor_"
        row |= {prefix + name: value for name, value in _figures(case, side, pushes[side.name]).items()}
    push_us, floor_push_us = (_push_us(case, pushes[side.name]) for side in sides)
    return {
        **row,
        "push_ratio_to_floor": round(push_us / floor_push_us, 3),
        "go_control_plane_push_us": GO_PUSH_US.get((change, str(case.size))),
        "go_control_plane_bring_up_us": GO_BRING_UP_US.get(str(case.size)),
    }


def _push_us(case: Case, pushes: Sequence[Push]) -> float:
    return statistics.median(each.cpu_s for each in pushes) / case.proxies * 1e6


def _figures(case: Case, side: Side, pushes: Sequence[Push]) -> dict[str, object]:
    acks_ms = [[at_s * 1e3 for at_s in each.answered_s] for each in pushes if each.answered_s]

    def typical_ms(place: float) -> float:
        return round(statistics.median(each[min(int(place * len(each)), len(each) - 1)] for each in acks_ms), 1)

    return {
        "bring_up_us": round(statistics.median(side.bring_up_us)),
        "push_us": round(_push_us(case, pushes), 1),
        "first_ack_ms": typical_ms(0),
        "median_ack_ms": typical_ms(0.5),
        "p99_ack_ms": typical_ms(0.99),
        "last_ack_ms": typical_ms(1),
        "memory_kb": round(side.memory_bytes / 1000, 1),
        "lost": side.lost,
        "reconnects": side.reconnects,
    }


async def profile(case: Case, console: Console) -> None:
    """Print where the server's main thread spends its time; the profiler itself costs more than what it watches."""
    async with AsyncExitStack() as stack:
        side = await _start(case, "server", stack, "--profile")
        await _bring_up(case, [side])
        console.print(f"{case}: bringing up", (await side.server.ask({"profile": True}))["profile"], markup=False)
        for change in Change:
            await _push_all(case, [side], change)
            text = (await side.server.ask({"profile": True}))["profile"]
            console.print(f"{case}: {change}", text, markup=False, highlight=False)


HEADINGS = (
    "size",
    "protocol",
    "proxies",
    "change",
    "push and ACK, us",
    "x floor",
    "go, us",
    "bring up, us",
    "go, us",
    "ACKs first / median / p99 / last, ms",
    "memory, KB",
    "lost",
)


def table(rows: Sequence[dict[str, Any]]) -> Table:
    shown = Table(title="CPU of the server's process for each proxy, and the floor's in brackets")
    for heading in HEADINGS:
        shown.add_column(heading, justify="left" if heading in ("size", "protocol", "change") else "right")
    for row in rows:
        acks = " / ".join(f"{row[f'{name}_ack_ms']:.0f}" for name in ("first", "median", "p99", "last"))
        shown.add_row(
            row["size"],
            row["protocol"],
            str(row["proxies"]),
            row["change"],
            f"{row['push_us']:.0f} ({row['floor_push_us']:.0f})",
            f"{row['push_ratio_to_floor']:.2f}",
            _range(row["go_control_plane_push_us"]),
            f"{row['bring_up_us']:.0f} ({row['floor_bring_up_us']:.0f})",
            _range(row["go_control_plane_bring_up_us"]),
            f"{acks} ({row['floor_last_ack_ms']:.0f})",
            f"{row['memory_kb']:.0f} ({row['floor_memory_kb']:.0f})",
            str(row["lost"]),
        )
    return shown


def _range(bounds: tuple[int, int] | None) -> str:
    return "" if bounds is None else "-".join(str(each) for each in sorted(set(bounds)))


def cases(wanted: argparse.Namespace) -> Iterator[Case]:
    for proxies in wanted.proxies or [100]:
        pushes = wanted.pushes or max(FEWEST_PUSHES, min(PUSHES, PUSHED_PROXIES // proxies))
        for size in wanted.sizes:
            for protocol in wanted.protocols:
                yield Case(size, protocol, proxies, pushes)


def sizes(text: str) -> list[Size]:
    return [Size(*(int(number) for number in each.split("x", 1))) for each in text.split(",")]


async def run(wanted: argparse.Namespace) -> int:
    console = Console(width=None if sys.stdout.isatty() else 180)
    rows = []
    for case in cases(wanted):
        if wanted.profile:
            await profile(case, console)
            continue
        measured = await measure(case)
        rows += measured
        if wanted.json:
            for row in measured:
                print(json.dumps(row), flush=True)
    if rows and not wanted.json:
        console.print(table(rows))
    return 1 if any(row["lost"] for row in rows) else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxies", type=int, action="append", help="two or more; may be given several times; 100")
    parser.add_argument("--sizes", type=sizes, default=sizes("10x10,200x50"), help="clusters x endpoints in each")
    parser.add_argument("--protocols", type=lambda text: text.split(","), default=["sotw", "delta"])
    parser.add_argument("--pushes", type=int, help="of each kind")
    parser.add_argument("--json", action="store_true", help="one object for each row, one a line")
    parser.add_argument("--profile", action="store_true", help="say which functions of the server cost what")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
