"""How metrics are made of what was counted."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from rollout.spread import Spread

Labels = tuple[str, ...]


def counters(name: str, text: str, labels: Labels, counts: Iterable[tuple[Labels, float]]) -> Metric:
    """Return a counter of each combination of labels."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in sorted(counts):
        family.add_metric(values, count)
    return family


def gauges(name: str, text: str, labels: Labels, values: Iterable[tuple[Labels, float]]) -> Metric:
    """Return a gauge of each combination of labels."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family


def histograms(name: str, text: str, labels: Labels, spreads: Iterable[tuple[Labels, Spread]]) -> Metric:
    """Return a histogram of each combination of labels."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, spread in sorted(spreads, key=lambda each: each[0]):
        family.add_metric(values, spread.buckets(), spread.total_s)
    return family
