"""A rollout in waves: its locations in a short table, the worst first, and what a step did to them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from rollout.screen.words import NOTHING, Json, percent, phase_words, plain, plural, style_of, table

ROWS = 12
NAMED = 3
HEADS = ("location", "wave", "phase", "weight", "verdict", "why")
WHY = 5
COLUMNS, GAP = 76, 3
_WRONG = ("rolling_back", "rolled_back", "paused")
_VERDICTS: Mapping[str, str] = {"inconclusive": "not yet"}


def locations_table(rollout: Json) -> RenderableType:
    """The locations that need a look, then some of those that are as they should be; how many more there are."""
    made = table(*HEADS)
    made.columns[3].justify = "right"
    rows = [tuple(_cells(each)) for each in rollout["locations"][:ROWS]]
    # What is too long is the reason's to give way.
    left = COLUMNS - sum(_columns(number, rows) + GAP for number in range(WHY))
    for *cells, why in rows:
        why.truncate(left, overflow="ellipsis")
        made.add_row(*cells, why)
    rest = rollout["locations"][ROWS:]
    return Group(made, plain(_more(rest), "dim")) if rest else made


def steps(entry: Json) -> Iterator[Text]:
    """What became of locations in one step of the journal, those together that fared alike."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for each in entry["locations"]:
        why = each["waiting"] or (each["reason"] if each["awaiting"] else each["passed"] or each["reason"])
        alike.setdefault((each["phase"], _station(each), why), []).append(each["location"])
    for (phase, station, why), names in alike.items():
        line = plain(f"{names_of(names)}: ", "bold").append(station, style_of(phase))
        yield line.append_text(plain(f", {why}", "not bold"))


def names_of(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def wave_words(rollout: Json) -> str:
    """Say in which wave a rollout is: "wave 2 of 3 (10%)"."""
    number = rollout["wave"]
    if number is None:
        return f"before wave 1 of {len(rollout['waves'])}"
    return f"wave {number + 1} of {len(rollout['waves'])} ({rollout['waves'][number]})"


def _columns(number: int, rows: Sequence[Sequence[Text]]) -> int:
    return max(len(HEADS[number]), *(len(row[number]) for row in rows))


def _cells(each: Json) -> Iterator[Text]:
    yield plain(each["location"], "bold")
    yield plain(NOTHING if each["wave"] is None else each["wave"] + 1)
    yield plain(_station(each), style_of(each["phase"]) if each["phase"] != "later" else "dim")
    yield plain(percent(each["weight_percent"]))
    verdict = each["verdict"]["verdict"] if each["verdict"] else ""
    yield plain(_VERDICTS.get(verdict, verdict) or NOTHING, style_of(verdict) if verdict else "")
    yield plain(_why(each))


def _station(each: Json) -> str:
    """Name where a location is: its stage, or how it ended."""
    match each["phase"]:
        case "shifting":
            last = f"/{len(each['stages'])}" if each["stages"] else ""
            return f"stage {each['stage'] + 1}{last}"
        case "retaining":
            return "done"
        case phase:
            return phase_words(phase)


def _why(each: Json) -> str:
    if each["phase"] in _WRONG:
        return str(each["reason"])
    if each["waiting_for"]:
        node, why = min(each["waiting_for"].items())
        return f"{node} {why}"
    if each["waiting"]:
        return str(each["waiting"])
    return str(each["verdict"]["reason"]) if each["verdict"] and each["phase"] == "shifting" else ""


def _more(rest: Iterable[Json]) -> str:
    """Say how many more there are, and whether one of them is not as it should be."""
    counts = Counter(_station(each) for each in rest)
    wrong = sum(count for station, count in counts.items() if station in map(phase_words, _WRONG))
    what = ", ".join(f"{count:,} {station}" for station, count in counts.most_common())
    whole = plural(sum(counts.values()), "more location")
    return f"and {whole}{'' if wrong else ' as they should'}: {what}"
