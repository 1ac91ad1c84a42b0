"""Which backends of the candidate carry its errors, and whether one of them explains them all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rollout.gate.sample import Host

HOSTS_LIMIT = 64
"""So many backends are kept one by one, those with most errors; all others are added up."""
OTHERS = "all other backends"
FEWEST_ERRORS = 3
NEARLY_ALL = 0.9
CHANCE = 0.05
"""A host is named only where chance would make any of them look so bad with less than this probability."""

Hosts = Mapping[str, Host]


@dataclass(frozen=True, slots=True)
class Blame:
    """The one backend that explains the candidate's errors, beside what all others had.

    `chance` is the probability that errors which strike all requests alike would fall on one host so unevenly.
    """

    address: str
    host: Host
    others: Host
    other_hosts: int | None  # None: more of them than are kept one by one
    chance: float

    @property
    def all_errors(self) -> int:
        """Those of all backends."""
        return self.host.errors + self.others.errors


def add(hosts: Hosts, more: Hosts) -> Hosts:
    """Return the sums of both, at most HOSTS_LIMIT hosts one by one."""
    sums = dict(hosts)
    for address, host in more.items():
        known = sums.get(address, Host(0, 0))
        sums[address] = Host(known.requests + host.requests, known.errors + host.errors)
    others = sums.pop(OTHERS, Host(0, 0))
    kept = ranked(sums)
    for _, host in kept[HOSTS_LIMIT:]:
        others = Host(others.requests + host.requests, others.errors + host.errors)
    rest = {OTHERS: others} if others != Host(0, 0) else {}
    return {**dict(kept[:HOSTS_LIMIT]), **rest}


def ranked(hosts: Hosts) -> tuple[tuple[str, Host], ...]:
    """Return the hosts with the most errors first, of equal ones those with the most requests."""
    return tuple(sorted(hosts.items(), key=lambda item: (-item[1].errors, -item[1].requests, item[0])))


def blame(hosts: Hosts, tolerable: float) -> Blame | None:
    """Return the one host that explains the errors; None when no single one does.

    It must have nearly all of them, far more than its share of the requests (the exact binomial tail, times the number
    of hosts, for the worst of them was picked), and the rest together must be as good as `tolerable` demands: an error
    share, say stable's times the tolerance plus the margin.
    """
    # A refused connection is an error, but no request.
    known = {address: Host(max(host.requests, host.errors), host.errors) for address, host in hosts.items()}
    known = {address: host for address, host in known.items() if host.requests}
    all_errors = sum(host.errors for host in known.values())
    if len(known) < 2 or all_errors < FEWEST_ERRORS:
        return None
    address, host = ranked(known)[0]
    others = Host(sum(each.requests for each in known.values()) - host.requests, all_errors - host.errors)
    share = host.requests / (host.requests + others.requests)
    chance = min(1.0, len(known) * binomial_tail(host.errors, all_errors, share))
    clear = host.errors >= max(FEWEST_ERRORS, NEARLY_ALL * all_errors) and chance < CHANCE
    if address == OTHERS or not clear or others.errors > tolerable * others.requests:
        return None
    return Blame(address, host, others, None if OTHERS in known else len(known) - 1, chance)


def binomial_tail(least: int, trials: int, share: float) -> float:
    """The probability of at least so many successes in independent trials, for 0 < share < 1."""
    if least <= 0 or least > trials:
        return 1.0 if least <= 0 else 0.0
    if least <= trials * share:
        return 1.0 - binomial_tail(trials - least + 1, trials, 1 - share)
    # Above the mean each term is smaller than the one before: the rest is nothing once they no longer change the sum.
    odds, part, total = share / (1 - share), 1.0, 1.0
    for successes in range(least, trials):
        part *= (trials - successes) / (successes + 1) * odds
        if part < 1e-17 * total:
            break
        total += part
    first = math.lgamma(trials + 1) - math.lgamma(least + 1) - math.lgamma(trials - least + 1)
    return math.exp(first + least * math.log(share) + (trials - least) * math.log1p(-share)) * total


def words(found: Blame) -> str:
    """Say who has the errors: "all 7 errors are from 10.0.0.7:8080 (2 of 3 backends have none in 410 requests)"."""
    errors, requests = found.host.errors, f"{found.others.requests:,} requests"
    if found.others.errors:
        return (
            f"{errors:,} of {found.all_errors:,} errors are from {found.address} "
            f"(all others together: {found.others.errors:,} in {requests})"
        )
    match found.other_hosts:
        case None:
            clean = "all others have"
        case 1:
            clean = "1 of 2 backends has"
        case hosts:
            clean = f"{hosts} of {hosts + 1} backends have"
    return f"all {errors:,} errors are from {found.address} ({clean} none in {requests})"
