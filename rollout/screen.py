"""What people see: tables, and a rollout's live panel, made from the admin API's JSON. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rollout.drain import IDLE_LOOKS
from rollout.gate.words import odds

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
VERDICTS: Mapping[str, str] = {
    "pass": "PASS",
    "fail": "FAIL",
    "inconclusive": "not enough evidence yet",
    "blind": "BLIND, data is missing",
}
HELD = "HOLD"
DECIDING = ("pass", "fail")
BEFORE_STAGES = ("pending", "warming")
ENDED = ("completed", "rolled_back")
NOTHING = "-"
WAITING_LIMIT = 6
NOTES_LIMIT = 6
VERSION_DIGITS = 8
PANEL_COLUMNS = 100
BAR_CELLS = 12
PASS_METRICS = ("errors", "p95", "p99")


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


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def rollout_line(rollout: Json) -> Text:
    """Say where a rollout stands, in one line."""
    line = plain(f"{rollout['service']} {move(rollout)}: ")
    line.append(phase_words(rollout["phase"]), style_of(rollout["phase"]))
    if rollout["phase"] not in ENDED:
        line.append(f" at {percent(rollout['weight_percent'])}")
    line.append_text(plain(f" ({rollout['reason']})"))
    if rollout["phase"] in BEFORE_STAGES and rollout["stages_note"]:
        weights = ", ".join(percent(weight) for weight in rollout["stages"])
        line.append_text(plain(f"; stages: {weights} ({rollout['stages_note']})"))
    return line


def drain_line(drain: Json) -> Text:
    """Say how far one backend is let go."""
    line = plain(f"{drain['backend']} of {drain['version']}: ")
    return line.append_text(_drain_words(drain, safe=drain["removed"]))


def drain_of(view: Json, address: str) -> Text:
    """Say how far this backend of a service is let go."""
    found = next((each for each in view["drains"] if each["backend"] == address), None)
    return (
        drain_line(found) if found else plain(f"{address} went with its version: ").append("safe to stop", "bold green")
    )


def notes(warnings: Sequence[str], done: str) -> Text:
    """Warnings, one in a line, and what was done."""
    return Text("\n").join([*(plain(f"warning: {each}", "yellow") for each in warnings), plain(done)])


def _drain_words(drain: Json, *, safe: bool) -> Text:
    cut = ", ".join(f"{node}: {'unknown' if count < 0 else count}" for node, count in sorted(drain["cut"].items()))
    ran = f"the drain timeout is over, requests still running: {cut or 'none seen'}; " if drain["timed_out"] else ""
    if safe and drain["cut"]:
        return plain(ran).append("stopping it now cuts what still runs", "bold yellow")
    if safe:
        return plain(ran).append("safe to stop", "bold green")
    if drain["running"] is None:
        state = "waiting until every Envoy knows of the drain"
    else:
        idle = f"idle {min(drain['idle_looks'], IDLE_LOOKS)} of {IDLE_LOOKS} looks in a row"
        state = f"{plural(drain['running'], 'request')} running, {idle}"
    return plain(f"{ran}{state}; ").append("do not stop yet", "bold yellow")


def services_table(services: Sequence[Json]) -> RenderableType:
    """For `list`: every service with its versions and their backends."""
    if not services:
        return Text("no services; an EDS cluster in envoy-configs is one")
    table = _table("service", "version", "weight", "backends", "rollout")
    table.columns[2].justify = "right"
    for service in services:
        for row, version in enumerate(service["versions"]):
            table.add_row(
                plain(service["service"] if row == 0 else "", "bold"),
                plain(version["version"] + (" (stable)" if version["version"] == service["stable"] else "")),
                percent(version["weight_percent"]),
                Text("\n").join(plain(each) for each in version["backends"]) or Text(NOTHING),
                _phase_cell(service) if row == 0 else "",
            )
    return table


def _phase_cell(service: Json) -> Text:
    rollout = service["rollout"]
    return plain(phase_words(rollout["phase"]), style_of(rollout["phase"])) if rollout else Text(NOTHING)


def status_table(services: Sequence[Json]) -> RenderableType:
    """For `status`: every service with its rollout in progress, or its last."""
    if not services:
        return Text("no services; an EDS cluster in envoy-configs is one")
    table = _table("service", "stable", "rollout", "phase", "wanted", "measured", "verdict")
    for column in table.columns[4:6]:
        column.justify = "right"
    for service in services:
        rollout = service["rollout"]
        name, stable = plain(service["service"], "bold"), plain(service["stable"])
        if not rollout:
            table.add_row(name, stable, *([NOTHING] * 5))
            continue
        measured, verdict = _measured(rollout), rollout["verdict"] if rollout["in_progress"] else None
        table.add_row(
            name,
            stable,
            plain(move(rollout)),
            _phase_cell(service),
            percent(rollout["weight_percent"]),
            percent(measured["weight_percent"]) if measured else NOTHING,
            plain(verdict["verdict"], style_of(verdict["verdict"])) if verdict else NOTHING,
        )
    return table


def history_table(rollouts: Sequence[Json]) -> RenderableType:
    """For `history`: rollouts, newest first, and why each stands where it does."""
    if not rollouts:
        return Text("no rollouts yet")
    table = _table("id", "versions", "phase", "started (UTC)", "took", "why")
    table.columns[0].justify = "right"
    for rollout in rollouts:
        table.add_row(
            str(rollout["id"]),
            plain(move(rollout)),
            plain(phase_words(rollout["phase"]), style_of(rollout["phase"])),
            f"{instant(rollout['started_at']):%Y-%m-%d %H:%M}",
            duration(seconds_between(rollout["started_at"], rollout["changed_at"])),
            plain(rollout["reason"]),
        )
    return table


def fleet_table(nodes: Sequence[Json]) -> RenderableType:
    """For `fleet`: every Envoy, what it has ACKed, and below what it refused, in Envoy's own words."""
    if not nodes:
        return Text("no Envoy is connected; `rollout bootstrap` prints what one starts with")
    table = _table("Envoy", "location", "connected", "ACKed versions")
    for node in nodes:
        connected = Text(f"{duration(node['seconds'])}, {node['protocol']}")
        if not node["connected"]:
            connected = Text(f"gone for {duration(node['seconds'])}", "bold red")
        table.add_row(
            Text("\n").join([plain(node["node"], "bold"), plain(node["address"], "dim")]),
            plain(node["location"] or NOTHING),
            connected,
            Text("\n").join(_acked(word, each) for word, each in node["types"].items()) or Text(NOTHING),
        )
    return Group(table, *(fault for node in nodes for fault in _faults(node)))


def _acked(word: str, each: Json) -> Text:
    line = Text(f"{word} {each['acked'][:VERSION_DIGITS] or 'nothing yet'}")
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


def service_panel(view: Json, note: str = "") -> RenderableType:
    """A service's rollout as it stands, for 80 columns; `note` is a line below, of what goes on outside."""
    rollout = view["rollout"]
    parts: list[RenderableType] = list(_rollout_parts(rollout)) if rollout else [Text("no rollout yet")]
    parts.append(_versions(view))
    if rollout:
        parts += _findings(rollout)
    parts += [Text.assemble(("drain ", "bold"), drain_line(each)) for each in view["drains"]]
    if note:
        parts.append(plain(note, "bold yellow"))
    title = plain(view["service"], "bold")
    if rollout:
        title = title.append_text(plain(f": {move(rollout)}, rollout {rollout['id']}", "not bold"))
    border = style_of(rollout["phase"]) if rollout else ""
    panel = Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED, border_style=border)
    return Constrain(panel, PANEL_COLUMNS)


def _rollout_parts(rollout: Json) -> Iterator[RenderableType]:
    line = Text(phase_words(rollout["phase"]).upper(), style_of(rollout["phase"]))
    if rollout["phase"] == "shifting":
        line.append(f", stage {rollout['stage'] + 1} of {len(rollout['stages'])}", "default")
    elif rollout["resume"]:
        line.append(f" while {phase_words(rollout['resume'])}", "default")
    lasts = duration(rollout["phase_seconds"])
    line.append(f" for {lasts}" if rollout["in_progress"] else f", {lasts} ago", "default")
    yield line
    yield plain(rollout["reason"], "dim")
    yield Text()
    yield track(rollout)
    if rollout["stages_note"]:
        yield plain(rollout["stages_note"], "dim")
    yield Text()
    if rollout["in_progress"]:
        measured = _measured(rollout)
        weights = f"wanted {percent(rollout['weight_percent'])}, measured "
        weights += percent(measured["weight_percent"]) if measured else NOTHING
        yield plain(f"weight of {rollout['candidate']}: ").append(weights, "bold")


@dataclass(frozen=True, slots=True)
class _Step:
    """One station of the track; `reached` and `here` say where the rollout is."""

    name: str
    reached: bool
    here: bool


def track(rollout: Json) -> Text:
    """The way of a rollout as a line of stations: ● behind it, ▶ where it is, ○ to come."""
    line = Text()
    for number, step in enumerate(_steps(rollout)):
        if number:
            line.append("  ")
        if step.here:
            line.append(f"▶ [{step.name}]".replace(" ", "\u00a0"), f"reverse {style_of(rollout['phase'])}")
        else:
            mark, style = ("●", "green") if step.reached else ("○", "dim")
            line.append(f"{mark} {step.name}".replace(" ", "\u00a0"), style)
    return line


def _steps(rollout: Json) -> Iterator[_Step]:
    phase, stage = rollout["resume"] or rollout["phase"], rollout["stage"]
    warming, back, ended = phase in BEFORE_STAGES, _taken_back(rollout), phase in ENDED
    untouched = back and rollout["drain"] is None and phase != "rolling_back"  # it never had traffic
    yield _Step("warm", reached=True, here=warming)
    for number, weight in enumerate(rollout["stages"][: 0 if untouched else stage + 1] if back else rollout["stages"]):
        shifting = phase == "shifting" and number == stage
        behind = not warming and (number < stage or (number == stage and phase != "shifting"))
        yield _Step(f"{weight:g}%", reached=behind, here=shifting)
    if back:
        yield _Step("back to 0%", reached=phase != "rolling_back", here=phase == "rolling_back")
    if not untouched:
        yield _Step("drain", reached=ended or phase == "removing", here=phase in ("retaining", "draining"))
    yield _Step("remove", reached=ended, here=phase == "removing")
    yield _Step("rolled back" if back else "done", reached=False, here=ended)


def _taken_back(rollout: Json) -> bool:
    letting_go = rollout["phase"] in ("draining", "removing")
    return rollout["phase"] in ("rolling_back", "rolled_back") or (letting_go and not rollout["weight_percent"])


def _versions(view: Json) -> Table:
    """Per version: weight, and what it did in the last look (half a second; 10 s in a long pause)."""
    rollout = view["rollout"]
    measured = rollout and _measured(rollout)
    names = ("requests", "errors", "p50", "p99") if measured else ("backends",)
    table = _table("version", "weight", *names)
    table.caption = "in the last look" if measured else None
    for column in table.columns[1 : 6 if measured else 2]:
        column.justify = "right"
    for version in view["versions"]:
        role = _role(rollout, version["version"])
        figures = _figures(measured.get(role)) if measured else [plain(", ".join(version["backends"]) or NOTHING)]
        label = plain(version["version"]).append(f" ({role})" if role else "", "dim")
        table.add_row(label, percent(version["weight_percent"]), *figures)
    return table


def _measured(rollout: Json) -> Json | None:
    """Return the figures of the last look, while looks are taken: they stay what they were when the drain begins."""
    looking = "shifting" in (rollout["phase"], rollout["resume"])
    return rollout["measured"] if looking else None


def _role(rollout: Json | None, version: str) -> str:
    if rollout is None or not rollout["in_progress"]:
        return ""
    return "stable" if version == rollout["stable"] else "candidate" if version == rollout["candidate"] else ""


def _figures(counts: Json | None) -> list[Text]:
    if counts is None:
        return [Text(NOTHING)] * 4
    errors = Text(share(counts["error_share"]), "bold red" if counts["errors"] else "")
    return [
        Text(f"{counts['requests']:,}"),
        errors,
        Text(milliseconds(counts["p50_ms"])),
        Text(milliseconds(counts["p99_ms"])),
    ]


def _findings(rollout: Json) -> Iterator[RenderableType]:
    """Verdict, who is waited for, the drain, and what a person may do."""
    verdict, drain = rollout["verdict"], rollout["drain"]
    judged = "shifting" in (rollout["phase"], rollout["resume"])
    if verdict and (judged or verdict["verdict"] in DECIDING):
        yield Text.assemble(("verdict ", "bold"), verdict_text(verdict))
        if judged:
            yield from _evidence(verdict["numbers"])
        yield from (Text.assemble(("note ", "bold"), plain(note)) for note in verdict["notes"][:NOTES_LIMIT])
    waiting = sorted(rollout["waiting_for"].items())
    for node, why in waiting[:WAITING_LIMIT]:
        yield Text.assemble(("waiting for ", "bold"), plain(f"{node}: {why}"))
    if len(waiting) > WAITING_LIMIT:
        yield Text(f"and for {len(waiting) - WAITING_LIMIT} more")
    if drain:
        yield Text.assemble(
            ("drain ", "bold"), plain(f"{drain['version']}: "), _drain_words(drain, safe=drain["safe_to_stop"])
        )
    if rollout["phase"] == "paused":
        service = rollout["service"]
        yield Text.assemble(("next ", "bold"), plain(f"`rollout resume {service}`, `promote` or `abort`"))


def verdict_text(verdict: Json) -> Text:
    """A verdict and why, in words."""
    name = verdict["verdict"]
    words = HELD if name == "inconclusive" and "held_s" in verdict["numbers"] else VERDICTS.get(name, name)
    return Text.assemble((words, style_of(name)), ": ", plain(verdict["reason"]))


def _evidence(numbers: Json) -> Iterator[Text]:
    """Two bars: how near the evidence is to taking the candidate back, and how near to passing it."""
    if "ln_limit" not in numbers:  # a verdict without a comparison
        return
    against = max(0.0, numbers["ln_e"] / numbers["ln_limit"])
    words = f"1:{odds(max(0.0, numbers['ln_e']))} of 1:{odds(numbers['ln_limit'])}"
    yield Text.assemble(("against ", "bold"), _bar(against, "red"), f" {words}")
    if numbers.get("stable_requests"):  # at 100 % there is nothing to compare with
        shown = progress(numbers)
        yield Text.assemble(("for     ", "bold"), _bar(min(shown.values()), "green"), f" {progress_words(shown)}")


def progress(numbers: Json) -> Mapping[str, float]:
    """How much of the evidence to pass there is, as a part of 1, by what it is about."""
    start, needed = numbers.get("ln_pass_start", 0.0), numbers["ln_pass_limit"]
    won = {metric: (numbers[f"ln_pass_{metric}"] - start) / (needed - start) for metric in PASS_METRICS}
    return {metric: min(1.0, max(0.0, part)) for metric, part in won.items()}


def progress_words(shown: Mapping[str, float]) -> str:
    """Rounded down: 100 % is enough, and less is not."""
    return ", ".join(f"{metric} {int(100 * part)} %" for metric, part in shown.items())


def _bar(part: float, style: str) -> Text:
    full = min(BAR_CELLS, int(BAR_CELLS * part))
    return Text.assemble(("█" * full, style), ("░" * (BAR_CELLS - full), "dim"))
