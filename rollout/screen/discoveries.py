"""The table of `discovery list`: where backends are found, and how that stands."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from rollout.screen.words import NOTHING, Json, duration, instant, plain, plural, table

_STYLES = {"fresh": "green", "stale": "bold yellow", "unasked": "dim"}
SHOWN = 10


def discoveries_table(discoveries: Sequence[Json]) -> RenderableType:
    """Each source with its last answer, and why it is not followed."""
    if not discoveries:
        return Text("no source is followed; `rollout discovery set` names one, and `deploy --discover` does")
    rows = table("service", "version", "source", "status", "backends", "asked (UTC)", "next in")
    for each in discoveries:
        rows.add_row(
            plain(each["service"], "bold"),
            plain(each["version"]),
            plain(each["label"]),
            _status(each),
            _backends(each),
            f"{instant(each['answered_at']):%H:%M:%S}" if each["answered_at"] else NOTHING,
            "now" if each["next_seconds"] is None else duration(each["next_seconds"]),
        )
    return rows


def _status(each: Json) -> Text:
    line = plain(each["status"], _STYLES.get(each["status"], ""))
    line = line.append_text(plain(f": {each['fault']}", "not bold default")) if each["fault"] else line
    warning = each.get("warning")  # of a server of the release before there is none
    return line.append("\n").append_text(plain(f"warning: {warning}", "not bold yellow")) if warning else line


def _backends(each: Json) -> Text:
    lines = [plain(backend) for backend in each["backends"][:SHOWN]]
    more = len(each["backends"]) - SHOWN
    lines += [plain(f"and {more} more", "dim")] if more > 0 else []
    lines += [
        plain(f"{missing['backend']} is missing ({plural(missing['looks'], 'look')})", "yellow")
        for missing in each["missing"][:SHOWN]
    ]
    return Text("\n").join(lines) or Text(NOTHING)
