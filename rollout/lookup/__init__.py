"""Asks where the backends of a version are: each source by its own way, within its own limits."""

from rollout.lookup.lookup import Lookup

__all__ = ["Lookup"]
