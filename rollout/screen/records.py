"""Tables of what is remembered: a service's versions, and who asked for what."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from rollout.screen.words import NOTHING, Json, duration, instant, percent, plain, table


def versions_table(view: Json) -> RenderableType:
    """For `version list`: the versions that are there, and those that were."""
    rows = table("version", "state", "weight", "backends", "undo at once")
    rows.columns[2].justify = "right"
    for version in view["versions"]:
        source = version.get("discovery")  # an older server says none
        where = f", found by {source}" if source else ", as in envoy-configs" if version["from_files"] else ""
        rows.add_row(
            plain(version["version"], "bold"),
            plain(version["role"] + where),
            percent(version["weight_percent"]),
            _where(version),
        )
    for past in view["past"]:
        state = "served until" if past["served"] else "was taken back at"
        ended = f"{state} {instant(past['ended_at']):%Y-%m-%d %H:%M} (UTC)"
        undo = f"for {duration(past['undo_seconds'])} more" if past["undo_seconds"] else NOTHING
        rows.add_row(plain(past["version"]), plain(ended, "dim"), NOTHING, _where(past), undo)
    return rows


def _where(version: Json) -> Text:
    return Text("\n").join(plain(each) for each in version["backends"]) or Text(NOTHING)


def operations_table(operations: Sequence[Json]) -> RenderableType:
    """For `log`: operations, newest first, each in a line or two."""
    if not operations:
        return Text("nothing was asked for yet")
    return Group(*(line for operation in operations for line in _operation(operation)))


def _operation(operation: Json) -> Iterator[Text]:
    what = " ".join(part for part in (operation["verb"], operation["service"], operation["detail"]) if part)
    line = plain(f"{instant(operation['at']):%Y-%m-%d %H:%M:%S}  ", "dim")
    line.append_text(plain(what, "bold")).append_text(plain(f" by {operation['by']}: ", "not bold"))
    yield line.append_text(plain(operation["result"], "not bold"))
