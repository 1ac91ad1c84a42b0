"""What decides best: this project's judge and four others lead the same rollouts, on the same random traffic.

python bench/gates.py [--runs 80] [--rate 1000] [--only NAME] [--seed 1] [--json] [--plot FILE]
python bench/gates.py --rows gates.jsonl --plot docs/gates.svg --page docs/gates.md

Each goes 1, 10, 50, 100 %, this project's as well, but for weights that its rule for low traffic raises. A decision
takes a second to have its effect. The time ends when the candidate has all traffic; bad answers are counted for ten
minutes, those of a bad version that somebody let through or left standing as well. Needs matplotlib for --plot:
uv pip install 'envoy-rollout[bench]'
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.rivals import ArgoRollouts, Flagger, Kayenta, PeekedZ
from rollout.forecast.course import Act, Course, Decider, Judged, Planned, travel
from rollout.forecast.traffic import Change, Incident, Service, Traffic, candidate_errors
from rollout.gate import Gate, steps

try:
    from bench.gates_plot import picture
except ImportError:  # only --plot needs matplotlib
    picture = None  # type: ignore[assignment]

WEIGHTS_BP = (100, 1_000, 5_000)
HOLD_S, TIMEOUT_S = 5, 300
WATCHED_S = 600  # bad answers are counted for so long
MOST_S = 900
OURS = "this project"
GATE = Gate()
BURSTS = Incident(errors=0.1, lasts_s=5, every_s=60)
OUTAGE = Incident(errors=0.5, lasts_s=30, every_s=86_400)
Plan = Sequence[Planned]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A service and a candidate for it; `healthy` ones ought to be promoted."""

    name: str
    errors: float = 0.001
    change: Change = field(default_factory=Change)
    incident: Incident | None = None
    cluster: float = 1.0
    healthy: bool = False

    def service(self, rate_rps: float) -> Service:
        return Service(rate_rps, self.errors, cluster=self.cluster, incident=self.incident)


SCENARIOS = (
    Scenario("healthy, no errors", 0.0, healthy=True),
    Scenario("healthy, 0.1 % errors", healthy=True),
    Scenario("healthy, 1 % errors", 0.01, healthy=True),
    Scenario("healthy, bursts that hit both", incident=BURSTS, healthy=True),
    Scenario("healthy, outage that hits both", incident=OUTAGE, healthy=True),
    Scenario("healthy, errors in clusters of 3", cluster=3.0, healthy=True),
    Scenario("healthy, cold: x5 errors for 10 s", change=Change(cold=5.0), healthy=True),
    Scenario("0.1 % -> 0.2 %", change=Change(errors=0.001)),
    Scenario("0.1 % -> 0.5 %", change=Change(errors=0.004)),
    Scenario("0.1 % -> 1 %", change=Change(errors=0.009)),
    Scenario("1 % -> 2 %", 0.01, Change(errors=0.0101)),
    Scenario("0 -> 5 %", 0.0, Change(errors=0.05)),
    Scenario("0.1 % -> 50 %", change=Change(errors=0.5)),
    Scenario("latency x1.2", change=Change(slower=1.2)),
    Scenario("latency x2", change=Change(slower=2.0)),
    Scenario("slowest 2 %: x2", change=Change(tail=2.0)),
    Scenario("5 % errors, only from 50 % on", change=Change(errors=0.05, from_bp=5_000)),
    Scenario("hangs", change=Change(hangs=1.0)),
)
RIVALS: Mapping[str, Callable[[], Decider]] = {
    "Flagger, 60 s x 5": lambda: Flagger(60, 5),
    "Flagger, 10 s x 2": lambda: Flagger(10, 2),
    "Argo, 10 s x 3": lambda: ArgoRollouts(10, count=3, failure_limit=1),
    "Kayenta, 6 x 10 s": lambda: Kayenta(10, points=6),
    "z-test, peeked": lambda: PeekedZ(10),
}
NAMES = (OURS, *RIVALS)


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one scenario in somebody's hands; times are None where no rollout ended so.

    `fails` says that the version answers badly, and not only slowly.
    """

    scenario: str
    healthy: bool
    fails: bool
    decider: str
    rate_rps: float
    runs: int
    promoted: float
    rolled_back: float
    undecided: float
    full_s_median: float | None
    full_s_p95: float | None
    back_s_median: float | None
    back_s_p95: float | None
    bad: float


def measured(scenario: Scenario, name: str, rate_rps: float, seeds: Sequence[int]) -> Row:
    service = scenario.service(rate_rps)
    plan = planned(service) if name == OURS else ()
    courses = [_course(service, scenario.change, name, plan, seed) for seed in seeds]
    full = [course.seconds for course in courses if course.end is Act.PROMOTE]
    back = [course.seconds for course in courses if course.end is Act.ROLLBACK]
    return Row(
        scenario.name,
        scenario.healthy,
        candidate_errors(service, scenario.change) > service.errors,
        name,
        rate_rps,
        len(courses),
        promoted=len(full) / len(courses),
        rolled_back=len(back) / len(courses),
        undecided=1 - (len(full) + len(back)) / len(courses),
        full_s_median=median(full) if full else None,
        full_s_p95=_p95(full),
        back_s_median=median(back) if back else None,
        back_s_p95=_p95(back),
        bad=round(fmean(course.bad + _later(course, service, scenario.change) for course in courses), 1),
    )


def planned(service: Service) -> Plan:
    """This project's stages before 100 %, at this service's traffic."""
    wanted = steps((*WEIGHTS_BP, 10_000), GATE, service.past())
    return tuple(Planned(step, HOLD_S, TIMEOUT_S) for step in wanted[:-1])


def _course(service: Service, change: Change, name: str, plan: Plan, seed: int) -> Course:
    traffic = Traffic(service, change, seed)
    if name == OURS:
        weights_bp = [stage.step.weight_bp for stage in plan]
        return travel(Judged(GATE, plan, traffic.past), weights_bp, traffic, MOST_S)
    return travel(RIVALS[name](), WEIGHTS_BP, traffic, MOST_S)


def _later(course: Course, service: Service, change: Change) -> float:
    """The bad answers on average of a candidate that keeps traffic, from the end of its course on."""
    if course.end is Act.ROLLBACK:
        return 0.0
    weight = 1.0 if course.end is Act.PROMOTE else course.laps[-1].weight_bp / 10_000
    left_s = max(0, WATCHED_S - course.seconds)
    return left_s * service.rate_rps * weight * candidate_errors(service, change)


def _p95(values: Sequence[float]) -> float | None:
    return sorted(values)[(95 * len(values) - 1) // 100] if values else None


def rows(
    scenarios: Sequence[Scenario], names: Sequence[str], rates_rps: Sequence[float], seeds: Sequence[int]
) -> Iterator[Row]:
    """Measure one after the other, with a progress bar on a terminal."""
    todo = [(scenario, name, rate_rps) for rate_rps in rates_rps for scenario in scenarios for name in names]
    for scenario, name, rate_rps in track(todo, "leading rollouts", console=Console(stderr=True), transient=True):
        yield measured(scenario, name, rate_rps, seeds)


def cell(row: Row) -> str:
    """A row in short: what a healthy candidate got of it, or a bad one."""
    if row.healthy:
        time = "never" if row.full_s_median is None else f"{row.full_s_median:.0f} s ({row.full_s_p95:.0f})"
        return f"{time}; {percent(row.rolled_back)} back"
    parts = ["never" if row.back_s_median is None else f"{percent(row.rolled_back)} in {row.back_s_median:.0f} s"]
    if row.fails:
        parts.append(f"{row.bad:,.0f} bad")
    if row.promoted:
        parts.append(f"{percent(row.promoted)} through")
    return "; ".join(parts)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share in (0, 1) or 0.0995 < share < 0.995 else f"{100 * share:.1f} %"


def grid(known: Sequence[Row], column: Callable[[Row], str]) -> tuple[list[str], list[list[str]]]:
    """Scenarios down, deciders or rates across."""
    columns = list(dict.fromkeys(map(column, known)))
    cells = {(row.scenario, column(row)): cell(row) for row in known}
    names = [scenario.name for scenario in SCENARIOS if any(row.scenario == scenario.name for row in known)]
    return ["", *columns], [[name, *(cells.get((name, each), "") for each in columns)] for name in names]


def by_decider(known: Sequence[Row], rate_rps: float) -> tuple[list[str], list[list[str]]]:
    return grid([row for row in known if row.rate_rps == rate_rps], lambda row: row.decider)


def by_rate(known: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """This project's alone, the largest rate first."""
    ours = sorted((row for row in known if row.decider == OURS), key=lambda row: -row.rate_rps)
    return grid(ours, lambda row: f"{row.rate_rps:,g} requests/s")


def markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, ["---"] * len(headings), *lines))


def filled(page: str, name: str, content: str) -> str:
    """Return the page with the content between the marks of that name."""
    begin, end = f"<!-- {name}: bench/gates.py writes this -->\n", "<!-- end -->"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}{content}\n{end}{rest.partition(end)[2]}"


def show(known: Sequence[Row], rates_rps: Sequence[float]) -> None:
    for rate_rps in rates_rps:
        headings, lines = by_decider(known, rate_rps)
        table = Table(box=box.SIMPLE_HEAD, title=f"{rate_rps:,g} requests/s")
        for heading in headings:
            table.add_column(heading)
        for line in lines:
            table.add_row(*line)
        console = Console()
        (console if console.is_terminal else Console(width=220)).print(table)


def write(known: Sequence[Row], page: Path | None, plot: Path | None) -> None:
    rate_rps = max((row.rate_rps for row in known if row.decider != OURS), default=known[0].rate_rps)
    if page is not None:
        text = filled(page.read_text(), "all", markdown(*by_decider(known, rate_rps)))
        page.write_text(filled(text, "ours", markdown(*by_rate(known))))
    if plot is not None:
        plot.write_text(picture([asdict(row) for row in known if row.rate_rps == rate_rps]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=80, help="rollouts for each figure; 80 take two minutes")
    parser.add_argument("--rate", type=float, action="append", help="requests a second of the service; 1000")
    parser.add_argument("--only", choices=NAMES, action="append", help="leave the others out")
    parser.add_argument("--scenario", choices=[each.name for each in SCENARIOS], action="append", help="the same")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="a line for each figure instead of tables")
    parser.add_argument("--rows", type=Path, help="what --json printed before; nothing is measured")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="an SVG")
    parser.add_argument("--page", type=Path, metavar="FILE", help="Markdown whose tables are written anew")
    wanted = parser.parse_args()
    if wanted.plot is not None and picture is None:
        parser.error("--plot needs matplotlib: uv pip install 'envoy-rollout[bench]'")
    rates_rps = wanted.rate or [1000.0]
    known: list[Row] = []
    if wanted.rows is not None:
        read = [Row(**json.loads(line)) for line in wanted.rows.read_text().splitlines()]
        known = sorted(read, key=lambda row: NAMES.index(row.decider))
    else:
        scenarios = [each for each in SCENARIOS if wanted.scenario is None or each.name in wanted.scenario]
        seeds = range(wanted.seed, wanted.seed + wanted.runs)
        for row in rows(scenarios, wanted.only or NAMES, rates_rps, seeds):
            known.append(row)
            if wanted.json:
                print(json.dumps(asdict(row)), flush=True)
        if not wanted.json:
            show(known, rates_rps)
    write(known, wanted.page, wanted.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
