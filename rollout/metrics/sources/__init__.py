"""What checks are read from beside Envoy's stats: Prometheus, a web endpoint, a command."""

from rollout.metrics.sources.answer import Answer, open_session, plain_line, what_happened
from rollout.metrics.sources.command import Command, Commands, Ended
from rollout.metrics.sources.source import Source, Sources

__all__ = [
    "Answer",
    "Command",
    "Commands",
    "Ended",
    "Source",
    "Sources",
    "open_session",
    "plain_line",
    "what_happened",
]
