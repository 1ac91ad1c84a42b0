"""Tables of services, rollouts and Envoys: `list`, `status`, `history`, `fleet`."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from rollout.screen.following import awaited_words
from rollout.screen.words import (
    NOTHING,
    Json,
    duration,
    instant,
    measured,
    measured_share,
    move,
    percent,
    phase_words,
    plain,
    seconds_between,
    style_of,
    table,
)

VERSION_DIGITS = 8


def services_table(services: Sequence[Json]) -> RenderableType:
    """For `list`: every service with its versions and their backends."""
    if not services:
        return Text("no services; an EDS cluster in envoy-configs is one")
    rows = table("service", "version", "weight", "backends", "rollout")
    rows.columns[2].justify = "right"
    for service in services:
        for row, version in enumerate(service["versions"]):
            rows.add_row(
                plain(service["service"] if row == 0 else "", "bold"),
                plain(version["version"] + (" (stable)" if version["version"] == service["stable"] else "")),
                percent(version["weight_percent"]),
                Text("\n").join(plain(each) for each in version["backends"]) or Text(NOTHING),
                _phase_cell(service) if row == 0 else "",
            )
    return rows


def _phase_cell(service: Json) -> Text:
    rollout = service["rollout"]
    if not rollout:
        return Text(NOTHING)
    waits = f", {awaited_words(rollout)}" if rollout["awaiting"] else ""
    return plain(phase_words(rollout["phase"]), style_of(rollout["phase"])).append_text(plain(waits, "default"))


def status_table(services: Sequence[Json]) -> RenderableType:
    """For `status`: every service with its rollout in progress, or its last."""
    if not services:
        return Text("no services; an EDS cluster in envoy-configs is one")
    rows = table("service", "stable", "rollout", "phase", "wanted", "measured", "verdict")
    for column in rows.columns[4:6]:
        column.justify = "right"
    for service in services:
        rollout = service["rollout"]
        name, stable = plain(service["service"], "bold"), plain(service["stable"])
        if not rollout:
            rows.add_row(name, stable, *([NOTHING] * 5))
            continue
        look, verdict = measured(rollout), rollout["verdict"] if rollout["in_progress"] else None
        rows.add_row(
            name,
            stable,
            plain(move(rollout)),
            _phase_cell(service),
            percent(rollout["weight_percent"]),
            measured_share(rollout, look) if look else NOTHING,
            plain(verdict["verdict"], style_of(verdict["verdict"])) if verdict else NOTHING,
        )
    return rows


def history_table(rollouts: Sequence[Json]) -> RenderableType:
    """For `history`: rollouts, newest first, and why each stands where it does."""
    if not rollouts:
        return Text("no rollouts yet")
    rows = table("id", "versions", "phase", "started (UTC)", "took", "why")
    rows.columns[0].justify = "right"
    for rollout in rollouts:
        rows.add_row(
            str(rollout["id"]),
            plain(move(rollout)),
            plain(phase_words(rollout["phase"]), style_of(rollout["phase"])),
            f"{instant(rollout['started_at']):%Y-%m-%d %H:%M}",
            duration(seconds_between(rollout["started_at"], rollout["changed_at"])),
            plain(rollout["reason"]),
        )
    return rows


def fleet_table(nodes: Sequence[Json]) -> RenderableType:
    """For `fleet`: every Envoy, what it has ACKed, and below what it refused, in Envoy's own words."""
    if not nodes:
        return Text("no Envoy is connected; `rollout bootstrap` prints what one starts with")
    rows = table("Envoy", "location", "connected", "ACKed versions")
    for node in nodes:
        connected = Text(f"{duration(node['seconds'])}, {node['protocol']}")
        if not node["connected"]:
            connected = Text(f"gone for {duration(node['seconds'])}", "bold red")
        rows.add_row(
            Text("\n").join([plain(node["node"], "bold"), plain(node["address"], "dim")]),
            plain(node["location"] or NOTHING),
            connected,
            Text("\n").join(_acked(word, each) for word, each in node["types"].items()) or Text(NOTHING),
        )
    return Group(rows, *(fault for node in nodes for fault in _faults(node)))


def _acked(word: str, each: Json) -> Text:
    # Over delta an Envoy that came back with what is served is sent nothing, and has nothing to ACK.
    line = Text(f"{word} {each['acked'][:VERSION_DIGITS] or ('nothing yet' if each['waiting'] else 'as it had')}")
    if each["nack"]:
        line.append(" NACK", "bold red")
    elif each["waiting"]:
        line.append(" waiting", "yellow")
    return line


def _faults(node: Json) -> Iterator[Text]:
    for word, each in node["types"].items():
        if each["nack"]:
            line = plain(f"{node['node']} refused {word} {duration(each['nack']['seconds'])} ago: ", "bold red")
            yield line.append_text(plain(each["nack"]["text"], "not bold default"))
    if node["connected"] and node["stats"] != "ok":
        yield plain(f"{node['node']}: cannot read its stats: ", "bold yellow").append_text(
            plain(node["stats"], "not bold default")
        )
