"""Measured split against wanted split: who is named, how soon, and never without cause."""

import math
import random

import pytest

from rollout.split import ALPHA, Route, Sent, is_astray, ln_mixture, words, worst


def ln_chance(requests: int, hits: int, share: float) -> float:
    """ln of the binomial probability."""
    return math.log(math.comb(requests, hits)) + hits * math.log(share) + (requests - hits) * math.log(1 - share)


@pytest.mark.parametrize("share", [0.005, 0.01, 0.1, 0.5, 0.75])
@pytest.mark.parametrize("requests", [1, 2, 10, 200])
def test_the_mixture_is_a_martingale(share: float, requests: int) -> None:
    expected = math.fsum(
        math.exp(ln_chance(requests, hits, share) + ln_mixture(Sent(requests, hits), share))
        for hits in range(requests + 1)
    )
    assert expected == pytest.approx(1.0, abs=1e-9)
    before = Sent(requests, requests // 3)
    following = share * math.exp(ln_mixture(Sent(before.requests + 1, before.candidate + 1), share)) + (
        1 - share
    ) * math.exp(ln_mixture(Sent(before.requests + 1, before.candidate), share))
    assert following == pytest.approx(math.exp(ln_mixture(before, share)), rel=1e-9)


def test_the_bound_holds_for_large_counts() -> None:
    assert ln_mixture(Sent(10**12, 10**10), 0.01) < 0
    assert ln_mixture(Sent(10**12, 2 * 10**10), 0.01) > 1e9


@pytest.mark.parametrize("weight_bp", [0, 100, 1000, 5000, 9900, 10_000])
def test_an_envoy_that_has_sent_nothing_or_little_is_not_astray(weight_bp: int) -> None:
    assert not is_astray(Sent(), weight_bp)
    assert not is_astray(Sent(2, 2), weight_bp)
    assert not is_astray(Sent(2, 0), weight_bp)


@pytest.mark.parametrize(
    ("weight_bp", "sent"),
    [
        (100, Sent(3400, 411)),  # 12.1 %
        (100, Sent(4000, 0)),
        (1000, Sent(500, 5)),  # it has kept the weight of before
        (5000, Sent(200, 199)),
        (0, Sent(5000, 100)),
        (10_000, Sent(5000, 4900)),
        (10_000, Sent(100, 0)),
    ],
)
def test_another_split_is_found(weight_bp: int, sent: Sent) -> None:
    assert is_astray(sent, weight_bp)


@pytest.mark.parametrize(
    ("weight_bp", "sent"),
    [
        (100, Sent(10**9, 14_900_000)),  # half a percent point
        (100, Sent(10**9, 5_100_000)),
        (2000, Sent(10**9, 249_000_000)),  # a quarter
        (5000, Sent(10**9, 376_000_000)),
        (9000, Sent(10**9, 924_000_000)),
        (10_000, Sent(10**9, 995_100_000)),
    ],
)
def test_a_small_deviation_is_tolerated_however_sure_it_is(weight_bp: int, sent: Sent) -> None:
    assert not is_astray(sent, weight_bp)


def test_a_large_deviation_needs_enough_requests() -> None:
    assert not is_astray(Sent(50, 2), 100)  # 4 %: one in 11 such Envoys has as many
    assert is_astray(Sent(5000, 200), 100)


@pytest.mark.parametrize(("weight_bp", "share", "most"), [(100, 0.12, 300), (1000, 0.01, 600), (5000, 0.1, 100)])
def test_an_envoy_with_an_old_weight_is_found_soon(weight_bp: int, share: float, most: int) -> None:
    assert is_astray(Sent(most, round(most * share)), weight_bp)


def test_nobody_is_called_astray_in_hours_of_looks() -> None:
    """40 Envoys on three weights for two hours of looks, 50 requests a second each, drawn as their shares say."""
    drawn = random.Random(7)
    for weight_bp in (100, 1000, 5000):
        share = weight_bp / 10_000
        spread = math.sqrt(50 * share * (1 - share))
        for _ in range(40):
            requests = candidate = 0
            for second in range(7200):
                requests += 50
                candidate += min(50, max(0, round(drawn.gauss(50 * share, spread))))
                if second < 60 or second % 20 == 0:
                    assert not is_astray(Sent(requests, candidate), weight_bp)


def test_the_promise_is_kept_at_its_edge() -> None:
    """An Envoy whose true share is just tolerable is named with a probability of at most ALPHA: by enumeration."""
    bad = math.fsum(math.exp(ln_chance(2000, hits, 0.015)) for hits in range(2001) if is_astray(Sent(2000, hits), 100))
    assert 0 < bad < ALPHA


def test_an_astray_envoy_is_named_with_its_figures() -> None:
    route = Route("envoy-2", 100, Sent(3400, 411), True)
    assert words(route, "v2") == "envoy-2 sends v2 12.1 % of 3,400 requests, not 1 %"
    assert (
        words(Route("a", 10_000, Sent(10_000, 9996), True), "v2") == "a sends v2 99.96 % of 10,000 requests, not 100 %"
    )
    assert words(Route("a", 50, Sent(100, 100), True), "v2") == "a sends v2 100 % of 100 requests, not 0.5 %"


def test_the_worst_come_first() -> None:
    astray = Route("z", 100, Sent(3400, 411), True)
    noisy, fair, silent = (
        Route("c", 100, Sent(1000, 30), False),
        Route("b", 100, Sent(1000, 10), False),
        Route("a", 100, Sent(), False),
    )
    assert worst([fair, silent, noisy, astray], 3) == (astray, noisy, silent)
    assert worst([], 20) == ()
    assert silent.sent.share == 0.0
    assert round(noisy.deviation, 9) == 0.02
