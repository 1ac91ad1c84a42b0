"""Rows of fanout.py as a table and a plot in docs/.

python bench/fanout.py --proxies 100 --proxies 1000 --sizes 10x10,50x20,200x50 --json > fanout.jsonl
python bench/plot.py fanout.jsonl
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- fanout: bench/plot.py writes this -->", "<!-- end -->"
WIDTH, HEIGHT = 860, 330
PANEL_WIDTH, LEFT, TOP, BOTTOM = 400, 58, 56, 46
INK, FLOOR, GO = "#777777", "#999999", "#cc3311"
X_DECADES, Y_DECADES = (2, 4), (1, 5)  # powers of ten that the axes reach over
COLOURS = {"sotw": "#4477aa", "delta": "#228833"}  # told apart without seeing colours well
HEADING = (
    "| served | protocol | proxies | change | push and ACK, us | floor, us | ratio | last ACK, ms | bring up, us "
    "| floor, us | memory, KB | lost |"
)
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """Points of (endpoints served, microseconds)."""

    name: str
    colour: str
    dashes: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart on logarithmic axes, from `left` in the picture on."""

    title: str
    left: float
    lines: tuple[Line, ...]

    def x(self, value: float) -> float:
        return self.left + LEFT + _share(value, X_DECADES) * (PANEL_WIDTH - LEFT - 10)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - _share(value, Y_DECADES) * (HEIGHT - TOP - BOTTOM)


def _share(value: float, decades: tuple[int, int]) -> float:
    return (math.log10(value) - decades[0]) / (decades[1] - decades[0])


def table(rows: Sequence[Row]) -> str:
    """Return the rows of the smallest and of the largest size; the plot has those between."""
    ends = (min(map(_endpoints, rows)), max(map(_endpoints, rows)))
    lines = [HEADING, "|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for row in (each for each in rows if _endpoints(each) in ends):
        cells = (
            row["size"],
            row["protocol"],
            f"{row['proxies']:,}",
            row["change"],
            f"{row['push_us']:.0f}",
            f"{row['floor_push_us']:.0f}",
            f"**{row['push_ratio_to_floor']:.2f}**",
            f"{row['last_ack_ms']:.0f}",
            f"{row['bring_up_us']:,}",
            f"{row['floor_bring_up_us']:,}",
            f"{row['memory_kb']:.0f}",
            str(row["lost"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(rows: Sequence[Row]) -> str:
    """Return the plot: cost for each proxy over the size of what is served, for one endpoint's change and a start."""
    most = max(row["proxies"] for row in rows)
    shown = sorted((row for row in rows if row["proxies"] == most and row["change"] == "endpoint"), key=_endpoints)
    push = Panel("one endpoint's change: push and ACK", 0, _lines(shown, "push_us"))
    start = Panel("bringing up a proxy", WIDTH / 2, _lines(shown, "bring_up_us"))
    note = f"microseconds of the server's CPU for each proxy, of {most:,}, over the endpoints served"
    return _svg("\n".join((_text(LEFT, 16, note), *_legend(push.lines), *_panel(push), *_panel(start))))


def _endpoints(row: Row) -> int:
    clusters, _, endpoints = row["size"].partition("x")
    return int(clusters) * int(endpoints)


def _lines(rows: Sequence[Row], figure: str) -> tuple[Line, ...]:
    of: dict[str, list[Row]] = {}
    for row in rows:
        of.setdefault(row["protocol"], []).append(row)
    first = next(iter(of.values()))
    go = ((row, row[f"go_control_plane_{figure}"]) for row in first)
    return (
        *(Line(name, COLOURS[name], "", _points(each, figure)) for name, each in of.items()),
        Line("floor of the transport", FLOOR, "2 3", _points(first, f"floor_{figure}")),
        Line(
            "go-control-plane, elsewhere",
            GO,
            "7 4",
            tuple((_endpoints(row), math.sqrt(math.prod(each))) for row, each in go if each),
        ),
    )


def _points(rows: Sequence[Row], figure: str) -> tuple[tuple[float, float], ...]:
    return tuple((_endpoints(row), row[figure]) for row in rows)


def _panel(panel: Panel) -> Iterator[str]:
    yield _text(panel.left + LEFT, TOP - 12, panel.title)
    for decade in range(Y_DECADES[0], Y_DECADES[1] + 1):
        y = panel.y(10**decade)
        yield f'<line x1="{panel.x(100):.0f}" x2="{panel.x(10_000):.0f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
        yield _text(panel.left + LEFT - 6, y + 4, f"{10**decade:,}", anchor="end")
    for decade in range(X_DECADES[0], X_DECADES[1] + 1):
        anchor = "end" if decade == X_DECADES[1] else "middle"
        yield _text(panel.x(10**decade), HEIGHT - BOTTOM + 18, f"{10**decade:,}", anchor=anchor)
    for line in panel.lines:
        yield from _line(panel, line)


def _line(panel: Panel, line: Line) -> Iterator[str]:
    at = [(panel.x(x), panel.y(y)) for x, y in line.points]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    yield f'<polyline fill="none" points="{points}" {_stroke(line)}/>'
    yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}"/>' for x, y in at)


def _stroke(line: Line) -> str:
    return f'stroke="{line.colour}" stroke-width="2" stroke-dasharray="{line.dashes}"'


def _legend(lines: Sequence[Line]) -> Iterator[str]:
    for index, line in enumerate(lines):
        x = LEFT + (0, 100, 200, 410)[index]
        y = HEIGHT - 10
        yield f'<line x1="{x}" x2="{x + 24}" y1="{y - 4}" y2="{y - 4}" {_stroke(line)}/>'
        yield _text(x + 30, y, line.name)


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _svg(content: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="{INK}">\n{content}\n</svg>\n'
    )


def filled(page: str, content: str) -> str:
    """Return the page with the content between its marks."""
    return re.sub(f"(?s){re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: f"{BEGIN}\n{content}\n{END}", page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="what fanout.py --json printed")
    rows = [json.loads(line) for line in parser.parse_args().rows.read_text().splitlines()]
    page = DOCS / "performance.md"
    page.write_text(filled(page.read_text(), table(rows)))
    (DOCS / "performance.svg").write_text(picture(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
