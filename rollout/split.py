"""Measured split against wanted split: which Envoy routes otherwise than the weights that it has ACKed.

Envoy draws each request's version by itself, so of n requests the candidate's k are binomial with the weight w as
their share. For a share q, let M(q) be the mean of the likelihood ratio of all shares to q, by Jeffreys' prior:

    M(q) = B(k + 1/2, n - k + 1/2) / (B(1/2, 1/2) * q^k * (1 - q)^(n - k))

Where q is the true share, M(q) is a martingale that begins at 1, so P(it ever reaches 1/alpha) <= alpha (Ville 1939,
Robbins 1970): the shares with M(q) < 1/alpha are an interval around k/n that has the true one in it at all times,
however often one looks. An Envoy is astray when that interval lies outside the wanted share and what we tolerate
beside it. So one whose true share is tolerable is ever called astray with a probability of at most alpha, for all time.

The counts alone tell M, whatever order they came in: one look costs the same after an hour as after a second. What is
not drawn by chance, as where a hash of the user chooses, may deviate honestly: being astray is a name, not a fault.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

ALPHA = 1e-6
"""The probability that an Envoy which routes as it should is ever called astray, for each Envoy and weight."""
TOLERATED_BP = 50.0
TOLERATED_PART = 0.25
"""Tolerated is a deviation of so many basis points, or of this part of the smaller version's weight if that is more."""
FULL_BP = 10_000


@dataclass(frozen=True, slots=True)
class Sent:
    """How many requests an Envoy has begun since it ACKed a weight, and how many of them to the candidate."""

    requests: int = 0
    candidate: int = 0

    @property
    def share(self) -> float:
        """The candidate's, 0 without requests."""
        return self.candidate / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Route:
    """One Envoy: the candidate's weight that it has ACKed, what it sent since, and whether that is another split."""

    node: str
    weight_bp: int
    sent: Sent
    astray: bool

    @property
    def deviation(self) -> float:
        """The measured share less the wanted one."""
        return self.sent.share - self.weight_bp / FULL_BP


def is_astray(sent: Sent, weight_bp: int) -> bool:
    """Say whether what was sent proves that the true share is not one that this weight tolerates."""
    tolerated_bp = max(TOLERATED_BP, TOLERATED_PART * min(weight_bp, FULL_BP - weight_bp))
    lowest, highest = (weight_bp - tolerated_bp) / FULL_BP, (weight_bp + tolerated_bp) / FULL_BP
    limit = -math.log(ALPHA)
    if sent.share > highest:
        return ln_mixture(sent, highest) >= limit
    return sent.share < lowest and ln_mixture(sent, lowest) >= limit


def ln_mixture(sent: Sent, share: float) -> float:
    """Return ln M of a share between 0 and 1, both of which are excluded."""
    candidate, stable = sent.candidate, sent.requests - sent.candidate
    mixed = (
        math.lgamma(candidate + 0.5) + math.lgamma(stable + 0.5) - math.lgamma(sent.requests + 1) - math.log(math.pi)
    )
    return mixed - candidate * math.log(share) - stable * math.log1p(-share)


def worst(routes: Iterable[Route], limit: int) -> tuple[Route, ...]:
    """Return those that are astray, then the others, each by how far they deviate beyond what chance explains."""
    return tuple(sorted(routes, key=lambda route: (not route.astray, -_unlikely(route), route.node))[:limit])


def words(route: Route, candidate: str) -> str:
    """Say what an Envoy does: "envoy-2 sends v2 12.1 % of 3,400 requests, not 1 %"."""
    sent = route.sent
    return (
        f"{route.node} sends {candidate} {_percent(sent.share)} of {sent.requests:,} requests, "
        f"not {route.weight_bp / 100:g} %"
    )


def _unlikely(route: Route) -> float:
    """How many standard deviations the measured share lies beside the wanted one."""
    wanted = route.weight_bp / FULL_BP
    spread = math.sqrt(max(wanted * (1 - wanted), 1 / FULL_BP) / max(1, route.sent.requests))
    return abs(route.deviation) / spread


def _percent(share: float) -> str:
    """Three digits, but never so few that 99.96 % reads as all."""
    text = f"{100 * share:.3g}"
    return f"{text if share in (0.0, 1.0) or text != '100' else f'{100 * share:.5g}'} %"
