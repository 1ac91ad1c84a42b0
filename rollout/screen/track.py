"""The way of a rollout as a line of stations: what is behind it, where it is, what is to come."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from rollout.screen.following import station
from rollout.screen.words import BEFORE_STAGES, ENDED, Json, plain, style_of

GAP = "  "


@dataclass(frozen=True, slots=True)
class _Step:
    """One station of the track; `reached` and `here` say where the rollout is."""

    name: str
    reached: bool
    here: bool


@dataclass(frozen=True, slots=True)
class Track:
    """Stations in as many lines as they take; rich itself would break a line inside of a name."""

    stations: tuple[Text, ...]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text()
        for each in self.stations:
            if line and line.cell_len + len(GAP) + each.cell_len > options.max_width:
                yield line
                line = Text()
            line.append(GAP if line else "").append_text(each)
        yield line


def track(rollout: Json) -> Track:
    """The way of a rollout as a line of stations: ● behind it, ▶ where it is, ○ to come."""
    return Track(tuple(_station(rollout, step) for step in _steps(rollout)))


def _station(rollout: Json, step: _Step) -> Text:
    name = plain(step.name).plain
    if step.here:
        return Text(f"▶ [{name}]", f"reverse {style_of(rollout['phase'])}")
    mark, style = ("●", "green") if step.reached else ("○", "dim")
    return Text(f"{mark} {name}", style)


def _steps(rollout: Json) -> Iterator[_Step]:
    phase, stage = rollout["resume"] or rollout["phase"], rollout["stage"]
    warming, back, ended = phase in BEFORE_STAGES, _taken_back(rollout), phase in ENDED
    untouched = back and rollout["drain"] is None and phase != "rolling_back"  # it never had traffic
    yield _Step("warm", reached=True, here=warming)
    if rollout.get("waves"):
        yield from _waves(rollout, phase, back=back)
    stages = [] if rollout.get("waves") else rollout["track"]
    for number, each in enumerate(stages[: 0 if untouched else stage + 1] if back else stages):
        shifting = phase == "shifting" and number == stage
        behind = not warming and (number < stage or (number == stage and phase != "shifting"))
        approved = number == stage and rollout.get("approved")
        yield _Step(_stage_name(each, "approved" if approved else ""), reached=behind, here=shifting)
    if back:
        yield from _back(rollout, phase)
    elif rollout["keep_stable_seconds"]:
        yield _Step("keep", reached=phase in ("draining", "removing") or ended, here=phase == "retaining")
    if not untouched:
        letting_go = phase == "draining" or (phase == "retaining" and not rollout["keep_stable_seconds"])
        yield _Step("drain", reached=ended or phase == "removing", here=letting_go)
    yield _Step("remove", reached=ended, here=phase == "removing")
    yield _Step("rolled back" if back else "done", reached=False, here=ended)


def _waves(rollout: Json, phase: str, *, back: bool) -> Iterator[_Step]:
    """Of a rollout that went back those that had begun."""
    present = -1 if rollout["wave"] is None else rollout["wave"]
    for number, words in enumerate(rollout["waves"][: present + 1] if back else rollout["waves"]):
        shifting = phase == "shifting" and number == present
        behind = number < present or (number == present and phase != "shifting")
        yield _Step(f"wave {number + 1}: {words}", reached=behind, here=shifting)


def _stage_name(stage: Json, said: str) -> str:
    name = station(stage).replace(" %", "%")
    if said:
        return f"{name}, {said}"
    return f"{name} + approval" if stage["approve"] else name


def _back(rollout: Json, phase: str) -> Iterator[_Step]:
    """On a gradual way back the weight is that of now."""
    left = f"back at {rollout['weight_percent']:g}%" if rollout["weight_percent"] else "back to 0%"
    yield _Step(left, reached=phase != "rolling_back", here=phase == "rolling_back")


def _taken_back(rollout: Json) -> bool:
    letting_go = rollout["phase"] in ("draining", "removing")
    return rollout["phase"] in ("rolling_back", "rolled_back") or (letting_go and not rollout["weight_percent"])
