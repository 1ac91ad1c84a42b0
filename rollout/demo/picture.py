"""A rollout as a picture: which version answered what share of the requests, second by second, as SVG."""

from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 860, 300
LEFT, TOP, RIGHT, BOTTOM = 46, 34, 14, 40
COLOURS = ("#4477aa", "#228833", "#cc3311", "#ee7733", "#aa3377")  # told apart without seeing colours well
INK = "#777777"


def picture(by_second: Mapping[int, Mapping[str, int]], marks: Sequence[tuple[float, str]]) -> str:
    """Return a stacked chart of answers by version for each Unix second; `marks` says what happened, and when."""
    seconds = sorted(by_second)[1:-1]  # the first and the last are not whole
    if not seconds:
        return _svg("")
    versions = sorted({version for second in seconds for version in by_second[second]})
    areas = [_area(by_second, seconds, versions, index) for index in range(len(versions))]
    return _svg("\n".join((*areas, *_axes(seconds), *_legend(versions), *_marks(marks, seconds))))


def _x(second: float, seconds: Sequence[int]) -> float:
    span = max(1, seconds[-1] - seconds[0])
    return LEFT + (second - seconds[0]) / span * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)


def _area(
    by_second: Mapping[int, Mapping[str, int]], seconds: Sequence[int], versions: Sequence[str], index: int
) -> str:
    lower, upper = [], []
    for second in seconds:
        counts = by_second[second]
        total = sum(counts.values()) or 1
        below = sum(counts.get(version, 0) for version in versions[:index]) / total
        x = _x(second, seconds)
        lower.append(f"{x:.1f},{_y(below):.1f}")
        upper.append(f"{x:.1f},{_y(below + counts.get(versions[index], 0) / total):.1f}")
    return f'<polygon fill="{COLOURS[index % len(COLOURS)]}" points="{" ".join((*lower, *reversed(upper)))}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _axes(seconds: Sequence[int]) -> list[str]:
    ticks = range(0, seconds[-1] - seconds[0] + 1, 10)
    return [
        *(_text(LEFT - 6, _y(share) + 4, f"{100 * share:.0f} %", anchor="end") for share in (0.0, 0.5, 1.0)),
        *(_text(_x(seconds[0] + tick, seconds), HEIGHT - BOTTOM + 16, f"{tick} s", anchor="middle") for tick in ticks),
    ]


def _legend(versions: Sequence[str]) -> list[str]:
    return [
        f'<rect x="{LEFT + 150 * index}" y="8" width="12" height="12" fill="{COLOURS[index % len(COLOURS)]}"/>'
        + _text(LEFT + 150 * index + 18, 18, f"answered by {version}")
        for index, version in enumerate(versions)
    ]


def _marks(marks: Sequence[tuple[float, str]], seconds: Sequence[int]) -> list[str]:
    return [
        f'<line x1="{_x(at, seconds):.1f}" x2="{_x(at, seconds):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="{INK}" '
        f'stroke-dasharray="3 3"/>'
        + _text(_x(at, seconds), HEIGHT - 8, f" {text} ", anchor="end" if index % 2 else "start")
        for index, (at, text) in enumerate(marks)
        if seconds[0] <= at <= seconds[-1]
    ]


def _svg(content: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="{INK}">\n{content}\n</svg>\n'
    )
