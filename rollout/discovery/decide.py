"""What an answer of a source changes: whom a version gets, whom it loses, or why nothing is done."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rollout.discovery.source import Discover
from rollout.spec import Endpoint

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done. `why` says why the answer is not followed, "" where it is.

    `missing` has by address in how many answers in a row each backend was not that the version still has.
    """

    add: tuple[Endpoint, ...] = ()
    remove: frozenset[str] = frozenset()
    missing: Mapping[str, int] = field(default_factory=dict)
    why: str = ""


def plan(
    discover: Discover, wanted: Iterable[Endpoint], present: Iterable[Endpoint], missed: Mapping[str, int]
) -> Plan:
    """Compare an answer with the backends that a version has and keeps; `missed` is `missing` of the plan before.

    Who is new comes at once. Who is missing goes when enough answers in a row agree; and not at all while the answer is
    empty, or takes away more at once than the user wants to believe.
    """
    listed = {each.address: each for each in wanted}
    kept = {each.address: each for each in present}
    if not listed:
        return Plan(missing=missed, why="it names no backend; nothing was changed")
    add = tuple(each for address, each in listed.items() if kept.get(address) != each)
    gone = kept.keys() - listed.keys()
    missing = {address: min(missed.get(address, 0) + 1, discover.confirm) for address in sorted(gone)}
    every = len(kept.keys() | listed.keys())
    if len(gone) > discover.max_removed * every:
        return Plan(missing=missing, why=_too_many(discover, missing, every))
    ripe = frozenset(address for address, looks in missing.items() if looks >= discover.confirm)
    return Plan(add, ripe, missing)


def located(wanted: Iterable[Endpoint], known: Iterable[Endpoint], present: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Return what a source names with locations where it says none, so that it takes none away.

    An address that is `known` keeps its own; others are where all that are `present` are, if that is one place.
    """
    before = {each.address: each for each in known}
    places = {(each.region, each.zone) for each in present}
    region, zone = places.pop() if len(places) == 1 else ("", "")

    def placed(each: Endpoint) -> Endpoint:
        if each.location:
            return each
        return before.get(each.address) or each.model_copy(update={"region": region, "zone": zone})

    return tuple(map(placed, wanted))


def unlocated(own: Iterable[Endpoint], every: Iterable[Endpoint]) -> str:
    """Say that some of a version have no location, while others of its service do; "" where it is not so."""
    lacking = sorted(each.address for each in own if not each.location)
    if not lacking or not any(each.location for each in every):
        return ""
    more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
    what = f"{', '.join(lacking[:SHOWN])}{more} have no location, while others of the service have one"
    return f"{what}; say it by the source, or give it `location: region/zone`"


def _too_many(discover: Discover, gone: Mapping[str, int], every: int) -> str:
    more = f" and {len(gone) - SHOWN} more" if len(gone) > SHOWN else ""
    which = f"{', '.join(list(gone)[:SHOWN])}{more}"
    what = f"it leaves out {len(gone)} of {every} backends at once ({which}), more than max_removed"
    return f"{what} ({discover.max_removed:.0%}); nothing was changed. `rollout scale --remove` lets them go"
