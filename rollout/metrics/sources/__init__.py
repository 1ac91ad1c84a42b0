"""What checks are read from beside Envoy's stats: Prometheus, a web endpoint, a command."""

from rollout.metrics.sources.answer import Answer, plain_line
from rollout.metrics.sources.command import Command, Commands, Ended
from rollout.metrics.sources.source import Source, Sources

__all__ = [
    "Answer",
    "Command",
    "Commands",
    "Ended",
    "Source",
    "Sources",
    "plain_line",
]
