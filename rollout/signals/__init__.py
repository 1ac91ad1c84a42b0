"""The server's own metrics, for Prometheus: what its parts count, and what they are asked when it is scraped."""

from rollout.signals.fleet import FleetSignals
from rollout.signals.notifications import NotificationSignals
from rollout.signals.rollouts import RolloutSignals
from rollout.signals.server import ServerSignals

__all__ = ["FleetSignals", "NotificationSignals", "RolloutSignals", "ServerSignals"]
