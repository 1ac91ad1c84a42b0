"""Words and figures as people read them: text from outside, durations, shares, and the colours of what they mean."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]
STYLES: Mapping[str, str] = {
    "completed": "bold green",
    "pass": "green",
    "rolled_back": "bold red",
    "rolling_back": "bold red",
    "fail": "bold red",
    "paused": "bold yellow",
    "inconclusive": "yellow",
    "blind": "bold yellow",
}
BEFORE_STAGES = ("pending", "warming")
ENDED = ("completed", "rolled_back")
NOTHING = "-"
COPIES = "copies"


def plain(value: object, style: str = "") -> Text:
    """Return text from outside as it is: no markup, no control characters, on one line."""
    words = re.sub(r"\s+", " ", str(value))
    return Text("".join(letter if letter.isprintable() else "?" for letter in words), style)


def phase_words(phase: str) -> str:
    return phase.replace("_", " ")


def duration(seconds: float) -> str:
    """Return 0.4 s, 12 s, 3 min 5 s, 2 h 10 min or 4 d 3 h."""
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def share(part: float) -> str:
    """Return a share of 1 in percent."""
    return f"{100 * part:.3g} %"


def percent(value: float) -> str:
    return f"{value:g} %"


def milliseconds(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def seconds_between(start: str, end: str) -> float:
    return max(0.0, (instant(end) - instant(start)).total_seconds())


def style_of(word: str) -> str:
    return STYLES.get(word, "cyan")


def move(rollout: Json) -> str:
    return f"{rollout['stable']} → {rollout['candidate']}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def judged(rollout: Json) -> bool:
    """Say whether traffic is shifted and judged now, in a pause too."""
    return "shifting" in (rollout["phase"], rollout["resume"])


def measured(rollout: Json) -> Json | None:
    """Return the figures of the last look, while looks are taken: they stay what they were when the drain begins."""
    return rollout["measured"] if judged(rollout) else None


def measured_share(rollout: Json, look: Json) -> str:
    """Return which share of requests the candidate had in a look; copies of requests are none."""
    track = rollout["track"]
    mirrors = not rollout.get("locations") and rollout["stage"] < len(track)
    if mirrors and track[rollout["stage"]]["kind"] == "mirror":
        return COPIES
    return percent(look["weight_percent"])


def table(*columns: str) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made
