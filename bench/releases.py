"""Releases on three real Envoys, with real backends and clients: how fast good ones go out and bad ones come back.

python bench/releases.py [--runs 5] [--only healthy --only broken] [--rate 300] [--json]

Requests take 20 ms in the median, one in a thousand fails, and no client retries. Each run deploys a candidate by the
default strategy and waits for its end; the next one replaces whichever version is stable then. Exits with 1 when a
release ended otherwise than it should, or when more was lost than the broken version itself did.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rollout.demo.backend import Behaviour
from rollout.demo.rehearsal import Rehearsal, Release, rehearsal

USUAL = Behaviour(error_share=0.001, median_ms=20)
OUTAGE_S = 20.0


@dataclass(frozen=True, slots=True)
class Found:
    """What one run showed: figures by their name with a unit, and what was not as it should be."""

    figures: Mapping[str, float]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of release. `limits` are those of its figures, which their medians must keep."""

    name: str
    what: str
    run: Callable[[Rehearsal], Awaitable[Found]]
    limits: Mapping[str, float]


async def healthy(scene: Rehearsal) -> Found:
    await scene.deploy()
    return _went_out(await scene.ended())


async def cold(scene: Rehearsal) -> Found:
    await scene.deploy(replace(scene.usual, cold_s=8, cold_error_share=0.05))
    return _went_out(await scene.ended())


async def broken(scene: Rehearsal) -> Found:
    await scene.deploy(replace(scene.usual, error_share=1.0))
    release = await scene.ended()
    return _came_back(release, release.first_bad_s)


async def worse(scene: Rehearsal) -> Found:
    await scene.deploy(replace(scene.usual, error_share=0.05))
    release = await scene.ended()
    return _came_back(release, release.first_bad_s)


async def slow(scene: Rehearsal) -> Found:
    await scene.deploy(replace(scene.usual, median_ms=2 * scene.usual.median_ms))
    release = await scene.ended()
    return _came_back(release, release.weighted_s)


async def outage(scene: Rehearsal) -> Found:
    """What all backends depend on fails for a while, when the candidate has its second weight."""
    file = scene.world.folder / "outage"
    depending = replace(scene.usual, outage=str(file))
    await scene.behave(scene.stable, depending)
    await scene.deploy(depending)
    await scene.until_weight(10)
    file.touch()
    await asyncio.sleep(OUTAGE_S)
    file.unlink()
    return _went_out(await scene.ended())


async def bad_host(scene: Rehearsal) -> Found:
    """One backend of three fails; it is drained, and the others go on."""
    await scene.deploy(hosts={1: replace(scene.usual, error_share=0.3)}, strategy={"gate": {"bad_host": "drain"}})
    address = scene.world.backends[scene.spare][1].address
    release = await scene.ended()
    named = [reason for _, reason in release.verdicts if address in reason]
    found = _went_out(release)
    return replace(found, faults=(*found.faults, *(() if named else (f"no verdict names {address}",))))


async def killed_envoy(scene: Rehearsal) -> Found:
    """An Envoy is killed when the candidate has its second weight, and started again when it is missed."""
    envoy = scene.world.envoys[1]
    await scene.deploy()
    await scene.until_weight(10)
    await scene.kill(envoy)
    await scene.until_verdict("blind", envoy.name, within_s=10)
    await scene.revive(envoy)
    return _went_out(await scene.ended())


async def hang(scene: Rehearsal) -> Found:
    """The candidate takes requests and never answers; its health checks are well."""
    await scene.deploy(replace(scene.usual, hang_after_s=0))
    release = await scene.ended()
    figures = {"back_s": release.back_s - release.weighted_s, "weight_percent": release.last_weight}
    return Found({**figures, "lost": release.tally.dropped}, _unless(release, "rolled_back"))


async def late_hang(scene: Rehearsal) -> Found:
    """The candidate begins to hang when it has its second weight."""
    await scene.deploy()
    await scene.until_weight(10)
    hangs_s = time.time()
    await scene.behave(scene.spare, replace(scene.usual, hang_after_s=0))
    release = await scene.ended()
    figures = {"back_s": release.back_s - hangs_s, "weight_percent": release.last_weight}
    return Found({**figures, "lost": release.tally.dropped}, _unless(release, "rolled_back"))


SCENARIOS = (
    Scenario("healthy", "as good as stable", healthy, {"all_traffic_s": 60}),
    Scenario("broken", "all answers are errors", broken, {"back_s": 3, "bad": 20}),
    Scenario("worse", "errors from 0.1 % to 5 %", worse, {"weight_percent": 10}),
    Scenario("slow", "latency doubled", slow, {}),
    Scenario("hang", "takes requests, answers none", hang, {"back_s": 10}),
    Scenario("late_hang", "hangs from the second weight on", late_hang, {"back_s": 10}),
    Scenario("cold", "8 s of slow starting, with 5 % errors", cold, {}),
    Scenario("outage", f"half of both versions' answers fail for {OUTAGE_S:g} s", outage, {}),
    Scenario("killed_envoy", "an Envoy is killed and comes back", killed_envoy, {}),
    Scenario("bad_host", "one of three backends fails 30 %, and is drained", bad_host, {}),
)


def _went_out(release: Release) -> Found:
    figures = {
        "all_traffic_s": release.seconds_until("retaining"),
        "completed_s": release.seconds_until("completed"),
        **{f"at_{weight:g}_percent_s": seconds for weight, seconds in release.seconds_by_weight().items()},
        "bad": release.bad,
        "dropped": release.tally.dropped,
    }
    return Found(figures, (*_unless(release, "completed"), *_drops(release)))


def _came_back(release: Release, began_s: float) -> Found:
    """`back_s` counts from then until all Envoys had ACKed the rollback."""
    figures = {
        "back_s": release.back_s - began_s,
        "weight_percent": release.last_weight,
        "bad": release.bad,
        "dropped": release.tally.dropped,
    }
    return Found(figures, (*_unless(release, "rolled_back"), *_drops(release)))


def _unless(release: Release, outcome: str) -> tuple[str, ...]:
    return () if release.outcome == outcome else (f"{release.version} {release.outcome}: {release.reason}",)


def _drops(release: Release) -> tuple[str, ...]:
    return tuple(f"dropped: {drop}" for drop in release.tally.first_drops)


async def measure(scenarios: Sequence[Scenario], runs: int, rate_per_s: float) -> list[tuple[Scenario, list[Found]]]:
    """Run each scenario so often, all in one world."""
    results = []
    with tempfile.TemporaryDirectory(prefix="releases-") as folder:
        async with rehearsal(Path(folder), USUAL, rate_per_s=rate_per_s) as scene:
            for scenario in scenarios:
                found = []
                for _ in range(runs):
                    found.append(await scenario.run(scene))
                    await scene.behave(scene.stable, USUAL)
                    told = ", ".join(f"{name} {value:.4g}" for name, value in found[-1].figures.items())
                    print(f"{scenario.name}: {told}", *found[-1].faults, sep="\n  ", file=sys.stderr, flush=True)
                results.append((scenario, found))
    return results


def spread(found: Sequence[Found], name: str) -> tuple[float, float, float]:
    """Median, least and most of a figure, of the runs that have it."""
    values = [each.figures[name] for each in found if name in each.figures]
    return statistics.median(values), min(values), max(values)


def rows(results: Sequence[tuple[Scenario, Sequence[Found]]]) -> list[dict[str, object]]:
    """Each figure of each scenario with its spread and its limit; and what was wrong."""
    return [
        {
            "scenario": scenario.name,
            "what": scenario.what,
            "runs": len(found),
            "figures": {
                name: dict(zip(("median", "min", "max"), spread(found, name), strict=True))
                for name in dict.fromkeys(name for each in found for name in each.figures)
            },
            "limits": dict(scenario.limits),
            "faults": [fault for each in found for fault in each.faults] + _above(scenario, found),
        }
        for scenario, found in results
    ]


def _above(scenario: Scenario, found: Sequence[Found]) -> list[str]:
    medians = {name: spread(found, name)[0] for name in scenario.limits}
    return [
        f"{name}: {medians[name]:.3g} in the median, above {limit:g}"
        for name, limit in scenario.limits.items()
        if not medians[name] <= limit
    ]


def table(measured: Sequence[Mapping[str, object]]) -> str:
    """As Markdown: a line for each figure."""
    lines = ["| candidate | figure | median | least | most | limit |", "|---|---|---:|---:|---:|---:|"]
    for row in measured:
        figures, limits = row["figures"], row["limits"]
        assert isinstance(figures, Mapping)
        assert isinstance(limits, Mapping)
        for number, (name, values) in enumerate(figures.items()):
            cells = (row["what"] if number == 0 else "", name, *(f"{value:.3g}" for value in values.values()))
            lines.append(f"| {' | '.join(map(str, cells))} | {limits.get(name, '')} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", action="append", choices=[each.name for each in SCENARIOS])
    parser.add_argument("--rate", type=float, default=300.0, help="requests per second")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    scenarios = [each for each in SCENARIOS if not wanted.only or each.name in wanted.only]
    measured = rows(asyncio.run(measure(scenarios, wanted.runs, wanted.rate)))
    print("\n".join(map(json.dumps, measured)) if wanted.json else table(measured))
    faults = [f"{row['scenario']}: {fault}" for row in measured for fault in row["faults"]]  # type: ignore[attr-defined]  # a list
    print(*faults, sep="\n", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
