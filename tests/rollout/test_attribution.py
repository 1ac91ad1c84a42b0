"""Which backend has the errors: named when one explains them all, and not otherwise."""

from math import comb

import pytest

from rollout.gate.attribution import HOSTS_LIMIT, OTHERS, Blame, add, binomial_tail, blame, words
from rollout.gate.sample import Host

A, B, C = "10.0.0.5:8080", "10.0.0.6:8080", "10.0.0.7:8080"


@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("trials", [1, 7, 60])
def test_the_tail_is_exact(trials: int, share: float) -> None:
    terms = [comb(trials, hits) * share**hits * (1 - share) ** (trials - hits) for hits in range(trials + 1)]
    for least in range(trials + 2):
        assert binomial_tail(least, trials, share) == pytest.approx(sum(terms[least:]), rel=1e-9, abs=1e-12)


def test_the_tail_is_known_for_large_counts() -> None:
    assert binomial_tail(500_000, 1_000_000, 0.5) == pytest.approx(0.5004, abs=1e-4)
    assert binomial_tail(900_000, 1_000_000, 0.99) == pytest.approx(1.0)
    assert binomial_tail(900_000, 1_000_000, 0.5) == 0.0


def test_one_bad_host_of_three_is_named() -> None:
    found = blame({A: Host(200, 0), B: Host(210, 0), C: Host(205, 7)}, tolerable=0.01)
    assert found is not None
    assert (found.address, found.host, found.others, found.other_hosts) == (C, Host(205, 7), Host(410, 0), 2)
    assert found.chance == pytest.approx(3 * (205 / 615) ** 7)
    assert words(found) == "all 7 errors are from 10.0.0.7:8080 (2 of 3 backends have none in 410 requests)"


def test_a_few_errors_elsewhere_do_not_clear_the_bad_host() -> None:
    found = blame({A: Host(5000, 2), B: Host(5000, 0), C: Host(5000, 48)}, tolerable=0.001)
    assert found is not None
    assert words(found) == "48 of 50 errors are from 10.0.0.7:8080 (all others together: 2 in 10,000 requests)"


@pytest.mark.parametrize(
    ("hosts", "why"),
    [
        ({}, "no hosts are known"),
        ({C: Host(100, 50)}, "it is the only one"),
        ({A: Host(0, 0), C: Host(100, 50)}, "the other one has had no requests"),
        ({A: Host(1000, 0), C: Host(10, 2)}, "two errors are too few"),
        ({A: Host(100, 0), B: Host(100, 0), C: Host(100, 3)}, "chance does that: 3 * (1/3)^3"),
        ({A: Host(100, 0), C: Host(9900, 20)}, "it had nearly all requests"),
        ({A: Host(500, 20), B: Host(500, 0), C: Host(500, 30)}, "two are bad"),
        ({A: Host(500, 30), B: Host(500, 30), C: Host(500, 30)}, "all are bad"),
        ({A: Host(50, 10), B: Host(50, 0), C: Host(5000, 900)}, "the rest is bad as well"),
    ],
)
def test_nobody_is_named_without_cause(hosts: dict[str, Host], why: str) -> None:
    assert blame(hosts, tolerable=0.01) is None, why


def test_a_rest_that_is_not_as_good_as_stable_clears_nobody() -> None:
    hosts = {A: Host(100, 1), C: Host(100, 40)}
    assert blame(hosts, tolerable=0.009) is None
    assert blame(hosts, tolerable=0.011) is not None


def test_a_host_that_refuses_connections_is_named_though_it_had_no_requests() -> None:
    found = blame({A: Host(40, 0), C: Host(0, 12)}, tolerable=0.0)
    assert found is not None
    assert (found.address, found.host) == (C, Host(12, 12))
    assert words(found) == "all 12 errors are from 10.0.0.7:8080 (1 of 2 backends has none in 40 requests)"


def test_hosts_are_added_up_over_looks() -> None:
    once = {A: Host(10, 0), B: Host(12, 1)}
    assert add(once, {B: Host(8, 2), C: Host(1, 0)}) == {A: Host(10, 0), B: Host(20, 3), C: Host(1, 0)}
    assert add({}, {}) == {}


def test_at_most_so_many_hosts_are_kept_and_no_request_is_lost() -> None:
    many = {f"10.0.{each // 250}.{each % 250}:80": Host(100 + each, each % 3) for each in range(1000)}
    kept = add({}, many)
    assert len(kept) == HOSTS_LIMIT + 1
    assert min(host.errors for address, host in kept.items() if address != OTHERS) == 2
    twice = add(kept, many)
    assert len(twice) == HOSTS_LIMIT + 1
    for hosts, times in ((kept, 1), (twice, 2)):
        assert sum(host.requests for host in hosts.values()) == times * sum(host.requests for host in many.values())
        assert sum(host.errors for host in hosts.values()) == times * sum(host.errors for host in many.values())


def test_one_bad_host_of_a_thousand_is_named_and_the_sum_of_the_others_never_is() -> None:
    many = {f"10.0.{each // 250}.{each % 250}:80": Host(100, 0) for each in range(999)}
    found = blame(add(many, {C: Host(100, 60)}), tolerable=0.01)
    assert found is not None
    assert words(found) == "all 60 errors are from 10.0.0.7:8080 (all others have none in 99,900 requests)"
    assert blame({OTHERS: Host(10, 60), A: Host(1000, 0)}, tolerable=0.01) is None


def test_blame_counts_all_errors() -> None:
    assert Blame(C, Host(10, 9), Host(90, 1), 2, 0.001).all_errors == 10
