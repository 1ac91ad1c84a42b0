"""Where the numbers come from: the Envoys' own admin endpoints."""

from rollout.metrics.admin import EnvoyAdmin
from rollout.metrics.envoy import BackendStats, ClusterStats, Query, Scrape, increments, parse_stats, stats_query
from rollout.metrics.fleet import Failure, FleetScraper

__all__ = [
    "BackendStats",
    "ClusterStats",
    "EnvoyAdmin",
    "Failure",
    "FleetScraper",
    "Query",
    "Scrape",
    "increments",
    "parse_stats",
    "stats_query",
]
