"""What checks are read from beside Envoy's stats: Prometheus, a web endpoint, a command."""

from rollout.metrics.sources.answer import Answer, open_session
from rollout.metrics.sources.command import Commands
from rollout.metrics.sources.source import Source, Sources

__all__ = ["Answer", "Commands", "Source", "Sources", "open_session"]
