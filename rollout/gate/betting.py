"""Bets on whether the candidate is worse: what each interval wins or loses, and the other formulas of the gate.

Counts of one interval: n0, k0 (stable's requests and bad ones) and n1, k1 (the candidate's); p0, p1 are their true
shares of bad requests, which may move with time. Every bet's gain F is chosen so that E[F] <= 1 while its null
hypothesis holds; then the product over intervals is a supermartingale, and P(it ever reaches 1/alpha) <= alpha
(Ville), however often one looks. Both kinds follow from (1+p*x)^n <= exp(n*p*x):

    rollback, H0 p1 <= r*p0 + d:  ln F = [ k1*ln(rho*base/den) + k0*ln(base/den) - (rho-1)*n0/den * n1*d ] / phi
                                  with base = r*n1 + n0, den = rho*r*n1 + n0
    promote,  H0 p1 >= r*p0 + d:  ln F = [ k1*ln(1-s) + k0*ln(1 + s*r*n1/n0) + s*n1*d ] / phi

When requests are routed at random and the outcome does not depend on the version, k1 is hypergeometric, which is below
the binomial in convex order (Hoeffding 1963): with r >= 1 and d = 0, errors that come in bursts and hit both versions
cannot inflate the rollback bets. Dividing by phi makes up for errors that come in clusters of up to phi.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EFFECTS = (1.5, 2.0, 4.0, 10.0, 50.0, 1000.0)
"""How many times worse than tolerated the candidate is bet to be; all six at once, with equal stakes."""
LIMIT_EFFECTS = (1.5, 2.0, 4.0, 10.0)
"""The same against a fixed limit."""
SMALLEST_STAKE, LARGEST_STAKE = 0.02, 0.95
PROVABLE = 0.6
LOST, FULL = 0.05, 0.5
"""The hang guard bets that the candidate finishes a tenth of its share, against that it finishes half of it."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Requests of both versions in one interval, and how many of them were bad."""

    stable_requests: int
    stable_bad: int
    candidate_requests: int
    candidate_bad: int


@dataclass(frozen=True, slots=True)
class Bet:
    """A bet that the candidate is `rho` times worse than the null allows, which is r times stable's share plus `d`."""

    rho: float
    r: float = 1.0
    d: float = 0.0
    phi: float = 1.0


@dataclass(frozen=True, slots=True)
class Stake:
    """A bet of the part `s` of what was won that the candidate is less than r times stable's share plus `d`."""

    s: float
    d: float
    r: float = 1.0
    phi: float = 1.0


def rollback_llr(trial: Trial, bet: Bet) -> float:
    """ln F of one interval, 0 unless both versions have requests."""
    n0, n1 = trial.stable_requests, trial.candidate_requests
    if n0 == 0 or n1 == 0:
        return 0.0
    base = bet.r * n1 + n0
    den = bet.rho * bet.r * n1 + n0
    won = trial.candidate_bad * math.log(bet.rho * base / den) + trial.stable_bad * math.log(base / den)
    return (won - (bet.rho - 1) * n0 / den * n1 * bet.d) / bet.phi


def promote_llr(trial: Trial, stake: Stake) -> float:
    """ln F of one interval that the candidate is less than the margin worse."""
    n0, n1, s = trial.stable_requests, trial.candidate_requests, stake.s
    won = trial.candidate_bad * math.log(1 - s) + s * n1 * stake.d
    if n0:
        won += trial.stable_bad * math.log1p(s * stake.r * n1 / n0)
    return won / stake.phi


def promote_bet(p0: float, p1: float, c: float, d: float, r: float = 1.0) -> float:
    """The stake that grows fastest when the shares are p0 and p1 and the candidate has c times stable's requests.

    The positive root of a*s^2 + b*s - e = 0, where the derivative of the expected ln F is 0.
    """
    a = d * r * c
    b = p1 * r * c + r * p0 - d * (r * c - 1)
    e = r * p0 - p1 + d
    root = b + math.sqrt(max(0.0, b * b + 4 * a * e))
    best = 2 * e / root if root > 0 else LARGEST_STAKE
    return min(LARGEST_STAKE, max(SMALLEST_STAKE, best))


def needed_requests(p0: float, c: float, d: float, beta: float = 0.05, p1: float | None = None) -> float:
    """How many of the candidate's requests show the margin `d` on average, when its share is p1 (None: p0)."""
    share = p0 if p1 is None else p1
    s = promote_bet(p0, share, c, d)
    growth = share * math.log(1 - s) + p0 / c * math.log1p(s * c) + s * d
    return -math.log(beta) / growth if growth > 0 else math.inf


def provable_margin(p0: float, c: float, requests: float, beta: float = 0.05) -> float:
    """The smallest margin that so many requests of a healthy candidate show; on average it needs PROVABLE of them."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if needed_requests(p0, c, middle, beta) <= PROVABLE * requests else (middle, high)
    return high


def limit_llr(requests: int, bad: int, rho: float, limit: float) -> float:
    """ln F of one interval against H0 "the candidate's share is at most the limit", with nothing to compare it with."""
    return bad * math.log(rho) - (rho - 1) * requests * limit


def hang_llr(stable_requests: int, candidate_requests: int, weight: float) -> float:
    """What one interval of finished requests says for a candidate that finishes a tenth of its share `weight`."""
    healthy, hung = 1 - FULL * weight, 1 - LOST * weight
    return candidate_requests * math.log(LOST / FULL) + stable_requests * math.log(hung / healthy)


def dispersion_of(hosts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """One window's part of phi's numerator and denominator, from (requests, errors) of each host.

    phi is the size of the clusters in which errors come: their variance between hosts by what chance alone would give.
    Errors that hit all hosts alike cancel.
    """
    requests, errors = sum(n for n, _ in hosts), sum(k for _, k in hosts)
    if not requests or not errors:
        return 0.0, 0.0
    shares = [n / requests for n, _ in hosts]
    spread = math.fsum((k - errors * share) ** 2 for share, (_, k) in zip(shares, hosts, strict=True))
    return spread, errors * (1 - math.fsum(share * share for share in shares))


def restart_share(restarts: int) -> float:
    """ln of the share of the stake which the process takes that starts after `restarts` others; all shares sum to 1."""
    return -math.log((restarts + 1) * (restarts + 2))


def log_sum_exp(values: Iterable[float]) -> float:
    """ln of the sum of the exponentials, without overflow."""
    known = tuple(values)
    top = max(known)
    return top + math.log(math.fsum(math.exp(value - top) for value in known))
