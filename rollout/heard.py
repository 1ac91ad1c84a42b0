"""What is heard of Envoys' streams, and who is told of it: the log, the events, the metrics, the traces, the engine."""

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from rollout.reporter import Reporter
from rollout.signals import FleetSignals
from rollout.traces.telemetry import Telemetry
from xds.cache import NodeStatus
from xds.errors import Forbidden, XdsError
from xds.limits import Rate, TokenBucket
from xds.node import Node, Peer
from xds.session import Events
from xds.stream import Answer, Response

LOGGED_REFUSALS = Rate(per_s=5, burst=50)  # a fleet without access tries again for as long as it has none


@dataclass(frozen=True, slots=True)
class Heard:
    """Who is told. `wake` has the engine look again."""

    reporter: Reporter
    signals: FleetSignals
    telemetry: Telemetry
    wake: Callable[[], None]
    clock: Callable[[], float]
    _refusals: TokenBucket = field(default_factory=TokenBucket)

    def events(self) -> Events:
        """Return what sessions call."""
        return Events(self._joined, self._left, self._answered, self._responded, self._refused)

    def _joined(self, status: NodeStatus) -> None:
        node = status.node
        structlog.get_logger().info("envoy connected", node=node.id, location=node.location, protocol=status.protocol)
        self.reporter.joined(node.id, node.location)
        self.wake()

    def _left(self, status: NodeStatus) -> None:
        structlog.get_logger().info("envoy disconnected", node=status.node.id)
        self.reporter.left(status.node.id)
        self.signals.left(status)
        self.telemetry.left(status)
        self.wake()

    def _answered(self, node: Node, answer: Answer) -> None:
        rejection = answer.subscription.rejection
        if answer.rejected and rejection is not None:
            structlog.get_logger().warning("NACK", node=node.id, type=str(answer.type), text=rejection.text)
            self.reporter.refused(node.id, answer.type.word, rejection.text)
        self.signals.answered(node, answer)
        self.telemetry.answered(node, answer)
        self.wake()

    def _responded(self, node: Node, response: Response) -> None:
        self.signals.responded(node, response)
        self.telemetry.responded(node, response)

    def _refused(self, peer: Peer, error: XdsError) -> None:
        self.signals.refused(error)
        if isinstance(error, Forbidden) and self._refusals.try_take(LOGGED_REFUSALS, self.clock()):
            identities = sorted(peer.identities or ())
            structlog.get_logger().warning("refused", peer=peer.address, identities=identities, reason=str(error))
