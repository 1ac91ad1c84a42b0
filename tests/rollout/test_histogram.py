"""Histograms add up over Envoys, subtract over time, and know their quantiles."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.gate import Histogram

# Envoy's own buckets between 1 and 1000 ms: two significant digits.
ENVOY_BUCKETS = [(m / 10 * 10**e, 0.1 * 10**e) for e in range(3) for m in range(10, 100)]

histograms = st.dictionaries(st.sampled_from(ENVOY_BUCKETS), st.integers(0, 50), max_size=30).map(
    lambda counts: Histogram.of((*bounds, count) for bounds, count in counts.items())
)


@given(histograms, histograms)
def test_what_was_merged_can_be_subtracted(one: Histogram, other: Histogram) -> None:
    assert one.merge(other).subtract(one) == other
    assert one.merge(other) == other.merge(one)
    assert one.merge(other).count == one.count + other.count


def test_a_bucket_that_went_down_means_a_reset() -> None:
    before = Histogram.of([(1.0, 0.1, 5), (2.0, 0.1, 1)])
    after = Histogram.of([(1.0, 0.1, 9)])
    assert after.subtract(before) is None
    assert before.subtract(before) == Histogram()


def test_buckets_come_in_any_order_and_empty_ones_are_left_out() -> None:
    assert Histogram.of([(2.0, 0.1, 1), (1.0, 0.1, 0), (1.1, 0.1, 3), (2.0, 0.1, 2)]) == Histogram.of(
        [(1.1, 0.1, 3), (2.0, 0.1, 3)]
    )


@given(histograms, st.lists(st.floats(0.0, 1.0), min_size=2))
def test_quantiles_rise_and_stay_inside_the_buckets(histogram: Histogram, shares: list[float]) -> None:
    quantiles = [histogram.quantile(q) for q in sorted(shares)]
    if not histogram.count:
        assert set(quantiles) == {None}
        return
    known = [q for q in quantiles if q is not None]
    assert len(known) == len(quantiles)
    assert all(low <= high for low, high in pairwise(known))
    assert histogram.buckets[0].lower_ms <= known[0]
    assert known[-1] <= histogram.buckets[-1].upper_ms + 1e-9


def test_a_quantile_lies_at_its_share_of_the_bucket() -> None:
    histogram = Histogram.of([(10.0, 1.0, 50), (20.0, 1.0, 50)])
    assert histogram.quantile(0.25) == pytest.approx(10.5)
    assert histogram.quantile(0.5) == pytest.approx(11.0)
    assert histogram.quantile(0.99) == pytest.approx(20.98)
    assert Histogram.of([(0.0, 0.0, 3)]).quantile(0.99) == 0.0


def test_a_bucket_ends_where_the_next_one_begins() -> None:
    for bounds, following in pairwise(ENVOY_BUCKETS):
        histogram = Histogram.of([(*bounds, 99), (*following, 1)])
        assert histogram.above(0.0) == 100
        assert histogram.above(histogram.buckets[0].upper_ms) == 1
