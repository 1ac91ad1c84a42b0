"""Which locations move in which wave: decided when a wave begins, the same whenever and wherever it is asked."""

import hashlib
from collections.abc import Iterable

from rollout.exposure import FULL_BP
from rollout.spec import Wave

NOWHERE = "no location"
"""What the location of Envoys that say none is called."""


def words(location: str) -> str:
    """Return a location for people."""
    return location or NOWHERE


def is_in(location: str, name: str) -> bool:
    """Say whether a location is the one of this name, or in the region or the zone of it."""
    region, _, zone = location.partition("/")
    return name in (words(location), region, zone)


def joining(wave: Wave, free: Iterable[str]) -> tuple[str, ...]:
    """Return which of the locations that are in no wave yet are in this one, sorted.

    A share is of those, at least one of them, spread by a hash of their names: the first ones of the alphabet may all
    be in one region.
    """
    known = sorted(set(free))
    match wave.locations:
        case "all":
            return tuple(known)
        case int(share_bp):
            most = max(1, len(known) * share_bp // FULL_BP)
            return tuple(sorted(sorted(known, key=_spread)[:most]))
        case names:
            return tuple(each for each in known if any(is_in(each, name) for name in names))


def unmet(wave: Wave, known: Iterable[str]) -> tuple[str, ...]:
    """Return the names in a wave that no location has."""
    if not isinstance(wave.locations, tuple):
        return ()
    locations = tuple(known)
    return tuple(name for name in wave.locations if not any(is_in(each, name) for each in locations))


def _spread(location: str) -> bytes:
    return hashlib.sha256(location.encode()).digest()
