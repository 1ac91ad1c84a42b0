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


def _too_many(discover: Discover, gone: Mapping[str, int], every: int) -> str:
    more = f" and {len(gone) - SHOWN} more" if len(gone) > SHOWN else ""
    which = f"{', '.join(list(gone)[:SHOWN])}{more}"
    what = f"it leaves out {len(gone)} of {every} backends at once ({which}), more than max_removed"
    return f"{what} ({discover.max_removed:.0%}); nothing was changed. `rollout scale --remove` lets them go"
