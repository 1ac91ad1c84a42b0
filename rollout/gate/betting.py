"""Bets against "the candidate is no worse": what each interval wins, whose product is the evidence to roll back.

For counts n0, k0 (stable's requests and bad ones) and n1, k1 (the candidate's), the null hypothesis p1 <= r*p0 + d
and a bet that the candidate is `rho` times worse than that, the gain is, with base = r*n1 + n0 and
den = rho*r*n1 + n0,

    ln F = [ k1*ln(rho*base/den) + k0*ln(base/den) - (rho-1)*n0/den * n1*d ] / phi

(1+p*x)^n <= exp(n*p*x) makes E[F] <= 1 under the null for binomial counts of any size and any p0 that moves with time,
so the product is a supermartingale and P(it ever reaches 1/alpha) <= alpha (Ville), however often one looks. When
requests are routed at random and the outcome does not depend on the version, k1 is hypergeometric, which is below the
binomial in convex order (Hoeffding 1963): errors that come in bursts and hit both versions cannot inflate it (d = 0).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

EFFECTS = (1.5, 2.0, 4.0, 10.0, 50.0, 1000.0)
"""How many times worse than tolerated the candidate is bet to be; all six at once, with equal stakes."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Requests of both versions in one interval, and how many of them were bad."""

    stable_requests: int
    stable_bad: int
    candidate_requests: int
    candidate_bad: int


@dataclass(frozen=True, slots=True)
class Bet:
    """One bet: how many times worse (`rho`) than the null allows, r times stable's share plus the margin `d`.

    `phi` is the size of the clusters in which bad requests come (1: one by one).
    """

    rho: float
    r: float = 1.0
    d: float = 0.0
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


def mixture_llr(trial: Trial, r: float) -> float:
    """ln of the mean F over EFFECTS of one interval."""
    return log_sum_exp(rollback_llr(trial, Bet(rho, r)) for rho in EFFECTS) - math.log(len(EFFECTS))


def restart_share(restarts: int) -> float:
    """ln of the share of the stake which the process takes that starts after `restarts` others; all shares sum to 1."""
    return -math.log((restarts + 1) * (restarts + 2))


def log_sum_exp(values: Iterable[float]) -> float:
    """ln of the sum of the exponentials, without overflow."""
    known = tuple(values)
    top = max(known)
    return top + math.log(math.fsum(math.exp(value - top) for value in known))
