"""When a backend counts as healthy: by answers in a row to our own probes, and by what most Envoys find."""

from dataclasses import dataclass, replace
from enum import StrEnum

from rollout.probe import ProbeSpec

ENVOYS_LEAST = 2  # one alone keeps its verdict to itself
MARKED_S, MARKED_LONGEST_S = 15.0, 120.0
STREAK_COUNTED = 1000


class Health(StrEnum):
    """What operators may mark a backend as; healthy takes a mark away."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Ward:
    """The backends of a version that are probed, and how."""

    service: str
    version: str
    addresses: tuple[str, ...]
    spec: ProbeSpec


@dataclass(frozen=True, slots=True)
class Probed:
    """What our probes of a backend have shown.

    `healthy`, since `since_s`, is None before enough answers agree. `why` says how the last probe failed, "" where it
    did not; `streak` counts the probes in a row that came out as the last one did.
    """

    healthy: bool | None = None
    since_s: float = 0.0
    why: str = ""
    streak: int = 0


@dataclass(frozen=True, slots=True)
class Votes:
    """How many Envoys find a backend healthy, and how many do not."""

    healthy: int = 0
    unhealthy: int = 0

    @property
    def against(self) -> bool:
        """Say whether more than half of those that can tell find it unhealthy."""
        return self.healthy + self.unhealthy >= ENVOYS_LEAST and self.unhealthy > self.healthy

    @property
    def known(self) -> bool:
        return self.healthy + self.unhealthy > 0


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the fleet thinks of a backend. `marked_s`: since when it is marked for that, None while it is not.

    `trusted`: most found it healthy once, so that it is not merely new. `lasts_s` is how long a mark lasts, after which
    each Envoy is asked again; `lifted_s` is when that was last. `votes` are those that led to the mark.
    """

    trusted: bool = False
    marked_s: float | None = None
    lasts_s: float = MARKED_S
    lifted_s: float = float("-inf")
    votes: Votes = Votes()


def probed(known: Probed, why: str, now_s: float, spec: ProbeSpec) -> Probed:
    """Return what is known of a backend after one more probe; `why` says how it failed, "" where it did not."""
    alike = known.streak > 0 and bool(known.why) == bool(why)
    streak = min(known.streak + 1, STREAK_COUNTED) if alike else 1
    enough = spec.unhealthy if why else spec.healthy
    healthy = known.healthy if streak < enough else not why
    return Probed(healthy, known.since_s if healthy == known.healthy else now_s, why, streak)


def polled(known: Opinion, votes: Votes, now_s: float) -> Opinion:
    """Return what the fleet thinks after these votes. A mark is lifted to look again, each time later.

    While it is marked all Envoys say unhealthy, for that is what they were told: only its time ends a mark. Lifting it
    is safe, because each Envoy goes on by its own health checks.
    """
    if known.marked_s is not None:
        if now_s - known.marked_s < known.lasts_s:
            return known
        longer_s = min(2 * known.lasts_s, MARKED_LONGEST_S)
        return replace(known, marked_s=None, lasts_s=longer_s, lifted_s=now_s)
    if votes.against and known.trusted:
        lasts_s = known.lasts_s if now_s - known.lifted_s < MARKED_LONGEST_S else MARKED_S
        return replace(known, marked_s=now_s, lasts_s=lasts_s, votes=votes)
    trusted = known.trusted or (votes.known and votes.healthy >= votes.unhealthy)
    return known if trusted == known.trusted else replace(known, trusted=trusted)
