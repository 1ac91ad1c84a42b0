"""The bets: their known values, and that none wins on average while its null hypothesis holds."""

import itertools
import math
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from rollout.gate.betting import (
    EFFECTS,
    LARGEST_STAKE,
    LIMIT_EFFECTS,
    SMALLEST_STAKE,
    Bet,
    Stake,
    Trial,
    dispersion_of,
    hang_llr,
    limit_llr,
    log_sum_exp,
    needed_requests,
    promote_bet,
    promote_llr,
    provable_margin,
    restart_share,
    rollback_llr,
)

NINE_DIGITS = 5e-10
SIX_DIGITS = 5e-7
FAIR = 1 + 1e-9
SIZES = ((1, 1), (1, 12), (12, 1), (9, 11), (30, 4), (4, 30), (20, 20))
SHARES = (0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.8, 0.99, 1.0)
RATIOS = (1.0, 1.25, 1.5, 2.0)
MARGINS = (0.0, 0.001, 0.01, 0.1)
STAKES = (0.02, 0.1, 0.5, 0.95)
USUAL = 1 / 99
"""So many requests of the candidate for each of stable's there are at a weight of 1 %."""


def mixture(trial: Trial, r: float) -> float:
    """ln of the mean F over all effects of one interval."""
    return log_sum_exp(rollback_llr(trial, Bet(rho, r)) for rho in EFFECTS) - math.log(len(EFFECTS))


def phi_of(windows: Sequence[Sequence[tuple[int, int]]]) -> float:
    parts = [dispersion_of(hosts) for hosts in windows]
    spread, expected = (sum(part[index] for part in parts) for index in (0, 1))
    return max(1.0, spread / expected) if expected else 1.0


# --- known values ---


@pytest.mark.parametrize(
    ("trial", "bet", "expected"),
    [
        (Trial(9900, 10, 100, 2), Bet(10, 1.0), 3.571037831),
        (Trial(9900, 10, 100, 2), Bet(10, 1.25), 3.328879889),
        (Trial(990, 0, 10, 1), Bet(1000, 1.0), 4.510769511),
        (Trial(500, 5, 500, 9), Bet(2, 1.0), 0.561813112),
        (Trial(500, 5, 500, 5), Bet(2, 1.0), -0.588915178),
        (Trial(500, 0, 500, 1), Bet(1000, 1.25), 0.586986985),
        (Trial(900, 1, 100, 3), Bet(4, 1.25, 0.001), 2.718907444),
        (Trial(900, 1, 100, 3), Bet(4, 1.25, 0.001, 3), 0.906302481),
        (Trial(0, 0, 10, 3), Bet(4, 1.25), 0.0),
        (Trial(900, 2, 0, 0), Bet(4, 1.25), 0.0),
    ],
)
def test_a_bet_on_worse_wins_what_the_formula_says(trial: Trial, bet: Bet, expected: float) -> None:
    assert rollback_llr(trial, bet) == pytest.approx(expected, abs=NINE_DIGITS)


@pytest.mark.parametrize(
    ("p0", "p1", "c", "d", "stake", "needed"),
    [
        (0.001, 0.001, USUAL, 0.05, 0.950000000, 65.91),
        (0.001, 0.001, 1 / 9, 0.01, 0.908326913, 396.31),
        (0.001, 0.001, 1.0, 0.005, 0.819803903, 1003.92),
        (0.01, 0.01, 1.0, 0.005, 0.236067977, 4935.89),
        (0.0, 0.0, 1.0, 0.005, 0.950000000, 630.68),
        (0.05, 0.02, 1.0, 0.005, 0.483314774, 335.69),
    ],
)
def test_the_best_stake_and_what_it_needs(
    p0: float, p1: float, c: float, d: float, stake: float, needed: float
) -> None:
    assert promote_bet(p0, p1, c, d) == pytest.approx(stake, abs=NINE_DIGITS)
    assert needed_requests(p0, c, d, p1=p1) == pytest.approx(needed, abs=0.005)


@pytest.mark.parametrize(
    ("trial", "stake", "expected"),
    [
        (Trial(990, 1, 10, 0), Stake(0.9, 0.05), 0.459049836),
        (Trial(990, 1, 10, 1), Stake(0.9, 0.05), -1.843535257),
        (Trial(500, 5, 500, 5), Stake(0.25, 0.005), 0.302307394),
        (Trial(0, 0, 12, 0), Stake(0.9, 0.05), 0.540000000),
        (Trial(900, 1, 100, 0), Stake(0.8, 0.01, phi=4), 0.221289452),
    ],
)
def test_a_bet_on_no_worse_wins_what_the_formula_says(trial: Trial, stake: Stake, expected: float) -> None:
    assert promote_llr(trial, stake) == pytest.approx(expected, abs=NINE_DIGITS)


@pytest.mark.parametrize(
    ("trial", "at_ratio_1", "at_ratio_125"),
    [
        (Trial(9900, 0, 100, 1), 3.157563, 3.009506),
        (Trial(9900, 0, 100, 2), 7.368443, 7.001208),
        (Trial(9900, 0, 100, 3), 11.790554, 11.205274),
        (Trial(9900, 10, 100, 2), 2.503120, 2.157995),
        (Trial(9900, 10, 100, 5), 11.821767, 10.697790),
        (Trial(9000, 9, 1000, 10), 9.178657, 7.482904),
        (Trial(5000, 5, 5000, 20), 3.550178, 2.162601),
        (Trial(5000, 5, 5000, 30), 8.400961, 5.925950),
    ],
)
def test_the_mixture_of_all_effects_has_its_known_values(trial: Trial, at_ratio_1: float, at_ratio_125: float) -> None:
    assert mixture(trial, 1.0) == pytest.approx(at_ratio_1, abs=SIX_DIGITS)
    assert mixture(trial, 1.25) == pytest.approx(at_ratio_125, abs=SIX_DIGITS)


@pytest.mark.parametrize(
    ("c", "requests", "margin"),
    [(0.01 / 0.99, 100, 0.054715), (0.1 / 0.9, 1000, 0.007128), (1, 5000, 0.002380), (1, 50_000, 0.000647)],
)
def test_the_margin_that_so_many_requests_show(c: float, requests: int, margin: float) -> None:
    assert provable_margin(0.001, c, requests) == pytest.approx(margin, abs=SIX_DIGITS)


@pytest.mark.parametrize(
    ("errors", "phi"), [((6, 0, 0, 0), 6.0), ((1, 1, 1, 0), 1.0), ((0, 0, 0, 0), 1.0), ((5, 5, 5, 5), 1.0)]
)
def test_the_size_of_clusters_of_errors(errors: tuple[int, ...], phi: float) -> None:
    assert phi_of([[(10, each) for each in errors]]) == pytest.approx(phi, abs=1e-12)


def test_hosts_without_requests_say_nothing_of_clusters() -> None:
    assert phi_of([]) == phi_of([[]]) == phi_of([[(0, 0), (0, 0)]]) == 1.0
    assert phi_of([[(10, 5)]]) == 1.0  # one host alone cannot differ from others


@pytest.mark.parametrize(
    ("n0", "n1", "weight", "expected"),
    [(990, 0, 0.01, 4.467292614), (990, 10, 0.01, -18.558558316), (500, 0, 0.5, 131.182132234)],
)
def test_what_finished_requests_say_of_a_hang(n0: int, n1: int, weight: float, expected: float) -> None:
    assert hang_llr(n0, n1, weight) == pytest.approx(expected, abs=NINE_DIGITS)


# --- fairness ---


@given(
    n0=some.integers(1, 5000),
    n1=some.integers(1, 5000),
    bad=some.integers(0, 30),
    r=some.floats(1.0, 4.0),
    rho=some.sampled_from(EFFECTS),
)
def test_given_the_bad_requests_a_bet_is_exactly_fair(n0: int, n1: int, bad: int, r: float, rho: float) -> None:
    share = r * n1 / (r * n1 + n0)
    mean = math.fsum(
        binomial(bad, k, share) * math.exp(rollback_llr(Trial(n0, bad - k, n1, k), Bet(rho, r))) for k in range(bad + 1)
    )
    assert mean == pytest.approx(1.0, abs=1e-11)


@pytest.mark.parametrize(("n0", "n1"), SIZES)
def test_no_bet_on_worse_wins_on_average_while_it_is_no_worse(n0: int, n1: int) -> None:
    for p0, r, d in itertools.product(SHARES, RATIOS, MARGINS):
        chances = outcomes(n0, p0, n1, min(1.0, r * p0 + d))
        for rho in EFFECTS:
            bet = Bet(rho, r, d)
            assert math.fsum(chance * math.exp(rollback_llr(trial, bet)) for trial, chance in chances) <= FAIR


@pytest.mark.parametrize(("n0", "n1"), SIZES)
def test_no_bet_on_no_worse_wins_on_average_while_it_is_worse_by_the_margin(n0: int, n1: int) -> None:
    for p0, r, d in itertools.product(SHARES, RATIOS, MARGINS):
        if r * p0 + d > 1:
            continue  # nobody can be that bad
        chances = outcomes(n0, p0, n1, r * p0 + d)
        for s in STAKES:
            stake = Stake(s, d, r)
            assert math.fsum(chance * math.exp(promote_llr(trial, stake)) for trial, chance in chances) <= FAIR


def outcomes(n0: int, p0: float, n1: int, p1: float) -> list[tuple[Trial, float]]:
    stable = [binomial(n0, k, p0) for k in range(n0 + 1)]
    candidate = [binomial(n1, k, p1) for k in range(n1 + 1)]
    return [
        (Trial(n0, k0, n1, k1), one * other)
        for k0, one in enumerate(stable)
        for k1, other in enumerate(candidate)
        if one * other
    ]


@pytest.mark.parametrize(("n0", "n1"), SIZES)
def test_errors_that_strike_both_versions_at_once_win_nothing_either(n0: int, n1: int) -> None:
    """So many of all requests fail, whatever version they went to: hypergeometric."""
    for bad in range(n0 + n1 + 1):
        for rho in EFFECTS:
            for r in RATIOS:
                mean = math.fsum(
                    math.comb(n1, k1)
                    * math.comb(n0, bad - k1)
                    / math.comb(n0 + n1, bad)
                    * math.exp(rollback_llr(Trial(n0, bad - k1, n1, k1), Bet(rho, r)))
                    for k1 in range(max(0, bad - n0), min(n1, bad) + 1)
                )
                assert mean <= FAIR


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 1, 2, 3), (3, 3, 3, 3), (1, 3, 3, 2)])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
def test_clusters_of_errors_up_to_phi_win_nothing(sizes: tuple[int, ...], p: float) -> None:
    """A cluster are the requests that one failing pod takes with it; it belongs to one version."""
    phi, margin = max(sizes), 0.04
    equal, worse = clustered(sizes, p, p), clustered(sizes, p, p + margin)
    for rho in EFFECTS:
        bet = Bet(rho, phi=phi)
        assert math.fsum(chance * math.exp(rollback_llr(trial, bet)) for trial, chance in equal) <= FAIR
    for s in STAKES:
        stake = Stake(s, margin, phi=phi)
        assert math.fsum(chance * math.exp(promote_llr(trial, stake)) for trial, chance in worse) <= FAIR


def clustered(sizes: tuple[int, ...], p0: float, p1: float) -> list[tuple[Trial, float]]:
    requests = sum(sizes)
    stable, candidate = failures(sizes, p0), failures(sizes, p1)
    return [
        (Trial(requests, k0, requests, k1), one * other)
        for k0, one in stable.items()
        for k1, other in candidate.items()
    ]


def failures(sizes: tuple[int, ...], p: float) -> dict[int, float]:
    """The distribution of bad requests when each cluster fails whole, with chance p."""
    chances = {0: 1.0}
    for size in sizes:
        following: dict[int, float] = {}
        for bad, chance in chances.items():
            following[bad] = following.get(bad, 0.0) + chance * (1 - p)
            following[bad + size] = following.get(bad + size, 0.0) + chance * p
        chances = following
    return chances


@settings(deadline=None)
@given(requests=some.integers(0, 60), limit=some.floats(0.0, 1.0), rho=some.sampled_from(LIMIT_EFFECTS))
def test_a_bet_against_a_limit_wins_nothing_while_it_is_met(requests: int, limit: float, rho: float) -> None:
    mean = math.fsum(
        binomial(requests, bad, limit) * math.exp(limit_llr(requests, bad, rho, limit)) for bad in range(requests + 1)
    )
    assert mean <= FAIR


@settings(deadline=None)
@given(requests=some.integers(0, 60), weight=some.floats(0.001, 0.999))
def test_a_hang_is_not_seen_where_half_of_the_requests_end(requests: int, weight: float) -> None:
    """Of the requests that end, the candidate's are half of what its weight says."""
    mean = math.fsum(
        binomial(requests, n1, weight / 2) * math.exp(hang_llr(requests - n1, n1, weight)) for n1 in range(requests + 1)
    )
    assert mean <= FAIR


def binomial(n: int, k: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


# --- how it is cut, and extremes ---


@given(n0=some.integers(1, 100), n1=some.integers(1, 100), parts=some.integers(1, 5), bad=some.integers(0, 20))
def test_how_an_interval_is_cut_makes_no_difference(n0: int, n1: int, parts: int, bad: int) -> None:
    whole = Trial(n0 * (parts + 1), bad, n1 * (parts + 1), 1)
    first, rest = Trial(n0, 0, n1, 1), Trial(n0 * parts, bad, n1 * parts, 0)
    bet, stake = Bet(10, 1.25, 0.01), Stake(0.7, 0.02)
    assert rollback_llr(first, bet) + rollback_llr(rest, bet) == pytest.approx(rollback_llr(whole, bet), abs=1e-9)
    assert promote_llr(first, stake) + promote_llr(rest, stake) == pytest.approx(promote_llr(whole, stake), abs=1e-9)


counts = some.sampled_from([0, 1, 7, 10**3, 10**9])
shares = some.sampled_from([0.0, 1e-12, 0.001, 0.5, 1.0])


@given(n0=counts, k0=shares, n1=counts, k1=shares, d=shares, phi=some.sampled_from([1.0, 16.0]))
def test_nothing_overflows(n0: int, k0: float, n1: int, k1: float, d: float, phi: float) -> None:
    trial = Trial(n0, int(k0 * n0), n1, int(k1 * n1))
    for rho in EFFECTS:
        assert math.isfinite(rollback_llr(trial, Bet(rho, 1.25, d, phi)))
    if n0 and n1:
        s = promote_bet(k0, k1, n1 / n0, d)
        assert SMALLEST_STAKE <= s <= LARGEST_STAKE
        assert math.isfinite(promote_llr(trial, Stake(s, d, 1.0, phi)))
        assert math.isfinite(mixture(trial, 1.25))


def test_a_gain_is_added_up_without_overflow() -> None:
    assert log_sum_exp([1e9, 1e9]) == pytest.approx(1e9 + math.log(2))
    assert log_sum_exp([-1e9, -math.inf]) == -1e9


def test_the_shares_of_all_processes_that_ever_start_make_one() -> None:
    def until(last: int) -> Iterator[float]:
        return (math.exp(restart_share(each)) for each in range(last))

    assert math.fsum(until(1000)) == pytest.approx(1 - 1 / 1001)
