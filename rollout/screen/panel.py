"""A service's rollout as it stands, in one panel for 80 columns: `status SERVICE` and `watch`."""

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rollout.screen.evidence import evidence_bars, verdict_text
from rollout.screen.following import awaited_words, choices
from rollout.screen.lines import drain_line, drain_words, queued_line, unhealthy_line
from rollout.screen.locations import locations_table, wave_words
from rollout.screen.track import track
from rollout.screen.words import (
    COPIES,
    NOTHING,
    Json,
    duration,
    judged,
    measured,
    measured_share,
    milliseconds,
    move,
    percent,
    phase_words,
    plain,
    share,
    style_of,
    table,
)

DECIDING = ("pass", "fail")
WAITING_LIMIT = 6
NOTES_LIMIT = 6
PANEL_COLUMNS = 100
LABEL_COLUMNS = 9
HOOKS_SHOWN = {"calling": "cyan", "refused": "bold yellow"}
Row = tuple[str, Text]


def service_panel(view: Json, note: str = "") -> RenderableType:
    """A service's rollout as it stands, for 80 columns; `note` is a line below, of what goes on outside."""
    rollout = view["rollout"]
    parts: list[RenderableType] = []
    if rollout:
        parts += [_head(rollout), _rows(_standing(rollout)), Text(), track(rollout), Text()]
        parts += [locations_table(rollout), Text()] if rollout.get("locations") else []
    else:
        parts.append(Text("no rollout yet"))
    parts.append(_versions(view))
    below = [
        *_backends(view),
        *(_findings(rollout) if rollout else ()),
        *(("drain", drain_line(each)) for each in view["drains"]),
    ]
    below += [("avoided", unhealthy_line(each)) for each in view.get("unhealthy", ())]
    below += [("next", queued_line(view["queued"]))] if view.get("queued") else []
    parts += [Text(), _rows(below)] if below else []
    if note:
        parts.append(plain(note, "bold yellow"))
    title = plain(view["service"], "bold")
    if rollout:
        title = title.append_text(plain(f": {move(rollout)}, rollout {rollout['id']}", "not bold"))
    border = style_of(rollout["phase"]) if rollout else ""
    panel = Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED, border_style=border)
    return Constrain(panel, PANEL_COLUMNS)


def _rows(rows: Iterator[Row] | list[Row]) -> RenderableType:
    """Lines with labels; what is too long goes on under its own words, and an equal label is not said again."""
    grid = Table.grid(padding=(0, 1), pad_edge=False)
    grid.add_column(width=LABEL_COLUMNS, no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    before = ""
    for label, words in rows:
        grid.add_row("" if label == before else label, words)
        before = label
    return grid


def _head(rollout: Json) -> Text:
    line = Text(phase_words(rollout["phase"]).upper(), style_of(rollout["phase"]))
    if rollout["phase"] == "shifting":
        stage = f"stage {rollout['stage'] + 1} of {len(rollout['track'])}"
        line.append(f", {wave_words(rollout) if rollout.get('waves') else stage}", "default")
    elif rollout["resume"]:
        line.append(f" while {phase_words(rollout['resume'])}", "default")
    lasts = duration(rollout["phase_seconds"])
    line.append(f" for {lasts}" if rollout["in_progress"] else f", {lasts} ago", "default")
    if rollout["awaiting"]:
        line.append(f": {awaited_words(rollout)}", "bold yellow")
    return line


def _standing(rollout: Json) -> Iterator[Row]:
    """Why it is where it is, whom it waits for, and what a person may do."""
    yield "why", plain(rollout["reason"])
    if rollout["waiting"]:
        yield "waits for", plain(rollout["waiting"])
    waiting = sorted(rollout["waiting_for"].items())
    for node, why in waiting[:WAITING_LIMIT]:
        yield "waits for", plain(f"{node}: {why}")
    if len(waiting) > WAITING_LIMIT:
        yield "waits for", Text(f"{len(waiting) - WAITING_LIMIT} more")
    for hook in rollout.get("hooks", ()):
        if hook["state"] in HOOKS_SHOWN and f"'{hook['name']}'" not in rollout["waiting"]:
            yield "hook", _hook(hook)
    if rollout["point_of_no_return"]:
        point = plain(f"'{rollout['point_of_no_return']}' has run and cannot be undone; ", "bold yellow")
        yield "beyond", point.append("it asks before it goes back", "default")
    if rollout["stages_note"]:
        yield "stages", plain(rollout["stages_note"], "dim")
    offered = choices(rollout)
    columns = max((len(verb) for verb, _ in offered), default=0)
    for verb, does in offered:
        gap = Text(" " * (columns - len(verb) + 3))
        yield "you can", Text.assemble(plain(f"rollout {verb} {rollout['service']}", "cyan"), gap, plain(does))


def _hook(hook: Json) -> Text:
    """What a hook is doing, or why it does not agree."""
    # To refuse is what a rollback hook does while all is well.
    state = "does not ask for it" if (hook["at"], hook["state"]) == ("rollback", "refused") else hook["state"]
    line = plain(f"{hook['name']} ({hook['at']}): ").append(state, HOOKS_SHOWN[hook["state"]])
    tries = f", {hook['attempts']} tries" if hook["attempts"] > 1 else ""
    return line.append_text(plain(f"{tries}{': ' if hook['words'] else ''}{hook['words']}"))


def _backends(view: Json) -> Iterator[Row]:
    """How many backends each version has, and how many of them are not in use."""
    drained = [each["version"] for each in view["drains"] if not each["removed"]]
    unhealthy = [each["version"] for each in view.get("unhealthy", ()) if not each["used"]]
    words = []
    for version in view["versions"]:
        name = version["version"]
        counts = {"draining": drained.count(name), "unhealthy": unhealthy.count(name)}
        apart = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        words.append(f"{name} {len(version['backends'])}" + (f" ({apart})" if apart else ""))
    if drained or unhealthy or (view["rollout"] and measured(view["rollout"])):
        yield "backends", plain(", ".join(words))


def _versions(view: Json) -> Table:
    """Per version: weight, and what it did in the last look (half a second; 10 s in a long pause)."""
    rollout = view["rollout"]
    look = measured(rollout) if rollout else None
    names = ("measured", "requests", "errors", "p50", "p99") if look else ("backends",)
    made = table("version", "weight", *names)
    made.caption = "measured in the last look" if look else None
    made.caption_justify = "right"
    for column in made.columns[1 : 7 if look else 2]:
        column.justify = "right"
    for version in view["versions"]:
        role = _role(rollout, version["version"])
        where = plain(", ".join(version["backends"]) or NOTHING)
        figures = _figures(rollout, look, role) if rollout and look else [where]
        label = plain(version["version"]).append(f" ({role})" if role else "", "dim")
        made.add_row(label, percent(version["weight_percent"]), *figures)
    return made


def _role(rollout: Json | None, version: str) -> str:
    if rollout is None or not rollout["in_progress"]:
        return ""
    return "stable" if version == rollout["stable"] else "candidate" if version == rollout["candidate"] else ""


def _figures(rollout: Json, look: Json, role: str) -> list[Text]:
    if role not in ("stable", "candidate"):
        return [Text(NOTHING)] * 5
    counts, had = look[role], measured_share(rollout, look)
    left = 100.0 if had == COPIES else round(100 - look["weight_percent"], 2)
    return [
        Text(had if role == "candidate" else percent(left)),
        Text(f"{counts['requests']:,}"),
        Text(share(counts["error_share"]), "bold red" if counts["errors"] else ""),
        Text(milliseconds(counts["p50_ms"])),
        Text(milliseconds(counts["p99_ms"])),
    ]


def _findings(rollout: Json) -> Iterator[Row]:
    """The verdict with its evidence, and the drain."""
    verdict, drain = rollout["verdict"], rollout["drain"]
    if verdict and (judged(rollout) or verdict["verdict"] in DECIDING):
        yield "verdict", verdict_text(verdict)
        if judged(rollout):
            yield from evidence_bars(verdict["numbers"])
        for note in verdict["notes"][:NOTES_LIMIT]:
            yield "note", plain(note)
    if drain:
        yield "drain", plain(f"{drain['version']}: ").append_text(drain_words(drain, safe=drain["safe_to_stop"]))
