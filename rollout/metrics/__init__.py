"""Where the numbers come from: the Envoys' own admin endpoints."""

from rollout.metrics.admin import EnvoyAdmin
from rollout.metrics.counts import Counts, begun, increments, sessions_between
from rollout.metrics.envoy import (
    BackendStats,
    ClusterStats,
    Query,
    Scrape,
    Sessions,
    Shared,
    parse_stats,
    stats_paths,
)
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
    "Sessions",
    "Shared",
    "begun",
    "increments",
    "parse_stats",
    "sessions_between",
    "stats_paths",
    "tally",
]
