"""Where the numbers come from: the Envoys' own admin endpoints."""

from rollout.metrics.admin import EnvoyAdmin
from rollout.metrics.counts import Counts, increments
from rollout.metrics.envoy import BackendStats, ClusterStats, Query, Scrape, parse_stats, stats_paths
from rollout.metrics.fleet import Failure, FleetScraper
from rollout.metrics.tally import tally

__all__ = [
    "BackendStats",
    "ClusterStats",
    "Counts",
    "EnvoyAdmin",
    "Failure",
    "FleetScraper",
    "Query",
    "Scrape",
    "increments",
    "parse_stats",
    "stats_paths",
    "tally",
]
