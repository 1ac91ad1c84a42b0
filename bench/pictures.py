"""The pictures of docs/strategies: what happens to traffic, drawn from what the machine makes of each page's strategy.

`python -m bench.pictures` writes them anew. Time is not to scale: long waits are shortened, and say how long they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from itertools import groupby, pairwise
from pathlib import Path

from bench.course import Moment, Story, course, weights
from rollout.exposure import FULL_BP
from rollout.spec import Strategy, parse_strategy
from rollout.state import Awaited, Command, Phase, Role, Split

PAGES = Path(__file__).parents[1] / "docs" / "strategies"
FRIDAY = datetime(2027, 3, 5, 14, 59, 35, tzinfo=UTC)  # soon four o'clock in Berlin
ZONES = tuple(f"{region}/{region}-{zone}" for region in ("eu", "us") for zone in (1, 2, 3))
STORIES: Mapping[str, Story] = {
    "canary": Story(),
    "canary-failing": Story(bad_from_bp=1000),
    "blue-green": Story(approves_s=900),
    "ab-test": Story(approves_s=3600),
    "shadow": Story(approves_s=300),
    "sticky-canary": Story(),
    "hold-back": Story(),
    "waves": Story(locations=ZONES),
    "hooks-and-approvals": Story(approves_s=600, hooks_s=45),
    "gradual": Story(orders=((21, Command.PROMOTE_FULL), (39, Command.ABORT))),
    "freeze": Story(begins=FRIDAY),
}
"""What happens beside the strategy in each picture; a name with -failing is of the page of that name without it."""
WIDTH, LEFT, RIGHT, TOP = 860, 74, 14, 58
CHART, LANE, STRIP, GAP = 120, 26, 12, 6
END_WIDTH, LEAST_WIDTH = 52, 50
STEP_S = 1
WAITS: Mapping[Awaited, str] = {Awaited.APPROVAL: "approval", Awaited.THAW: "frozen", Awaited.HOOK: "hook"}
CHAPTERS: Mapping[Phase, str] = {
    Phase.PENDING: "warm",
    Phase.WARMING: "warm",
    Phase.PAUSED: "asks",
    Phase.RETAINING: "drain",
    Phase.ROLLING_BACK: "drain",
    Phase.DRAINING: "drain",
    Phase.REMOVING: "drain",
    Phase.COMPLETED: "done",
    Phase.ROLLED_BACK: "back",
}
STYLE = """
text{font:12px sans-serif;fill:#57606a}
.name{font-weight:600}.v1{fill:#7f9fc9}.v2{fill:#2f9e62}.old{fill:#7f9fc9;opacity:.3}
.copies{fill:none;stroke:#c28f2c;stroke-width:2;stroke-dasharray:5 3}.some{fill:#a46bc4}.testers{fill:#c28f2c}
.going{opacity:.45}.line{stroke:#8b949e;stroke-opacity:.6}
@media (prefers-color-scheme:dark){text{fill:#c9d1d9}}
"""


@dataclass(frozen=True, slots=True)
class Span:
    """A moment on the picture: from `left` to `right` in pixels, and the chapter that it is part of."""

    moment: Moment
    chapter: str
    seconds: float
    left: float = 0.0
    right: float = 0.0


def picture(name: str, strategy: Strategy, moments: Sequence[Moment]) -> str:
    """Return the SVG of what became of a rollout by this strategy."""
    story = STORIES[name]
    spans = _placed(_spans(strategy, moments))
    locations = story.locations or ("",)
    chart = CHART if locations == ("",) else LANE * len(locations)
    below = TOP + chart + 22
    body = [
        *_names(spans, TOP + chart),
        *(part for row, place in enumerate(locations) for part in _row(spans, story, (row, place))),
        *_strips(strategy, spans, below),
    ]
    height = below + (STRIP + GAP) * (2 + (strategy.preview is not None)) + 4
    chapters = ", ".join(f"{chapter} {_duration(seconds)}".strip() for chapter, seconds in _chapters(spans))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    return "\n".join(
        (
            head,
            f"<title>{escape(name)}</title><desc>{escape(chapters)}</desc>",
            f"<style>{STYLE}</style>",
            *body,
            "</svg>\n",
        )
    )


def _spans(strategy: Strategy, moments: Sequence[Moment]) -> list[Span]:
    ends = [later.at_s - earlier.at_s for earlier, later in pairwise(moments)]
    spans: list[Span] = []
    for moment, seconds in zip(moments, [*ends, 0.0], strict=True):
        chapter = _chapter(strategy, moment)
        if spans and spans[-1].chapter in WAITS.values() and 0 < seconds <= STEP_S:
            chapter = spans[-1].chapter  # the answer is there, and is acted on at the next step
        if seconds or moment is moments[-1]:
            spans.append(Span(moment, chapter, seconds))
    return spans


def _chapter(strategy: Strategy, moment: Moment) -> str:
    """Name what goes on at a moment."""
    state, split = moment.state, moment.split
    waits = WAITS.get(state.awaited) if state.awaited and state.phase is not Phase.REMOVING else None
    if waits:
        return waits
    if state.phase is Phase.SHIFTING:
        if strategy.waves:
            return f"wave {state.wave + 1}" if state.lanes else "warm"
        return _stage(split)
    if state.phase is Phase.ROLLING_BACK and split.candidate_bp:
        return f"back {split.candidate_bp / 100:g}%"
    kept = state.phase is Phase.RETAINING and strategy.keep_stable
    return "keep v1" if kept else CHAPTERS[state.phase]


def _stage(split: Split) -> str:
    if split.match:
        return "match"
    if split.mirror_bp:
        return f"mirror {split.mirror_bp / 100:g}%"
    return f"{split.candidate_bp / 100:g}%" if split.candidate_bp else "preview"


def _chapters(spans: Sequence[Span]) -> list[tuple[str, float]]:
    return [(name, sum(span.seconds for span in group)) for name, group in groupby(spans, key=_chapter_of)]


def _chapter_of(span: Span) -> str:
    return span.chapter


def _placed(spans: Sequence[Span]) -> list[Span]:
    """Give each span its place: a chapter is as wide as the root of its time, the end has a width of its own."""
    chapters = _chapters(spans)
    room = WIDTH - LEFT - RIGHT - END_WIDTH - LEAST_WIDTH * (len(chapters) - 1)
    roots = [math.sqrt(seconds) for _, seconds in chapters[:-1]]
    widths = [LEAST_WIDTH + room * root / sum(roots) for root in roots] + [float(END_WIDTH)]
    placed, left = [], float(LEFT)
    for (_, group), width, (_, total) in zip(groupby(spans, key=_chapter_of), widths, chapters, strict=True):
        for span in group:
            right = left + width * (span.seconds / total if total else 1.0)
            placed.append(Span(span.moment, span.chapter, span.seconds, left, right))
            left = right
    return placed


def _duration(seconds: float) -> str:
    if not seconds:
        return ""
    if seconds < 100:
        return f"{seconds:g} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def _names(spans: Sequence[Span], bottom: float) -> Iterator[str]:
    for _, group in groupby(spans, key=_chapter_of):
        shown = list(group)
        left, middle = shown[0].left, (shown[0].left + shown[-1].right) / 2
        yield f'<line class="line" x1="{left:.1f}" x2="{left:.1f}" y1="{TOP - 20}" y2="{bottom}"/>'
        yield _text(middle, TOP - 24, shown[0].chapter, "name")
        yield _text(middle, TOP - 8, _duration(sum(span.seconds for span in shown)))


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>' if text else ""


def _rect(kind: str, left: float, right: float, top: float, height: float) -> str:
    return f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{height:.1f}"/>'


def _row(spans: Sequence[Span], story: Story, at: tuple[int, str]) -> Iterator[str]:
    """The traffic of a location, or of all: who answers what share of it."""
    row, place = at
    height = CHART if not story.locations else LANE - 4
    top = TOP if not story.locations else TOP + LANE * row
    yield _rect("old", spans[0].left, spans[-1].right, top, height)
    for label, y in ((place, top + height / 2 + 4),) if place else (("100 %", top + 10), ("0 %", top + height)):
        yield _text(LEFT - 6, y, label, anchor="end")
    for weight_bp, group in groupby(spans, key=lambda span: weights(span.moment, story.locations)[place]):
        shown = list(group)
        tall = max(2.0, height * weight_bp / FULL_BP) if weight_bp else 0.0
        if tall:
            yield _rect("v2", shown[0].left, shown[-1].right, top + height - tall, tall)
    for span in spans:
        if span.moment.split.mirror_bp:
            tall = height * span.moment.split.mirror_bp / FULL_BP
            yield _rect("copies", span.left + 1, span.right - 1, top + height - tall, tall)
        if span.moment.split.match:
            yield _rect("some", span.left, span.right, top + height - 12, 12)


def _strips(strategy: Strategy, spans: Sequence[Span], top: float) -> Iterator[str]:
    """Below the chart: which backends are needed, and who may choose a version."""
    rows = [("v1 runs", "v1", Role.STABLE), ("v2 runs", "v2", Role.CANDIDATE)]
    for number, (label, kind, role) in enumerate(rows):
        y = top + number * (STRIP + GAP)
        yield _text(LEFT - 6, y + 10, label, anchor="end")
        for span in spans:
            if role in span.moment.split.present:
                going = " going" if span.moment.split.draining is role else ""
                yield _rect(kind + going, span.left, span.right, y, STRIP)
    if strategy.preview is not None:
        y = top + 2 * (STRIP + GAP)
        yield _text(LEFT - 6, y + 10, "testers", anchor="end")
        for span in spans:
            if span.moment.split.preview:
                yield _rect("testers", span.left, span.right, y + 4, STRIP - 8)


def strategy_of(page: str) -> str:
    """Return the strategy that a page shows: its first block of YAML."""
    found = re.search(r"```yaml\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.DOTALL)
    assert found is not None, f"{page}.md has no strategy"
    return str(found[1])


def told(name: str) -> tuple[Strategy, tuple[Moment, ...]]:
    """Return the strategy of a picture, and what becomes of a rollout by it."""
    strategy = parse_strategy(strategy_of(name.removesuffix("-failing")))
    return strategy, course(strategy, STORIES[name])


if __name__ == "__main__":
    for each in STORIES:
        (PAGES / f"{each}.svg").write_text(picture(each, *told(each)))
