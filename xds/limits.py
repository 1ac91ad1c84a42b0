"""How much one client, and all of them together, may ask of the server; each limit is set on purpose."""

from collections import Counter, OrderedDict
from dataclasses import dataclass

from xds.errors import Overloaded
from xds.node import Peer


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in a second on average, and `burst` of them at once."""

    per_s: float
    burst: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one server."""

    # A reconnecting Envoy with 60,000 names sends 4 MB; 200 clusters with 10,000 endpoints each are 40 MB to send.
    request_bytes: int = 16 * 1024 * 1024
    response_bytes: int = 64 * 1024 * 1024
    names: int = 100_000  # in one subscription: an Envoy with 60,000 clusters names as many load assignments
    name_characters: int = 1_024  # in the name of a resource, and in a version that a client says it has
    # Of a NACK's text the end. It may begin with a whole resource; each name in doubt is looked for in it.
    fault_characters: int = 128 * 1024
    node_characters: int = 256  # in its id, its cluster, its region and its zone, each
    node_metadata_bytes: int = 32 * 1024  # it is kept, and shown, for as long as the node is connected
    # To bring up a proxy costs some milliseconds of CPU, a push with its ACK a tenth of one. More than this at once
    # would make all of them wait, and every rollback with them; who is refused comes back by itself, in seconds.
    new_streams: Rate = Rate(per_s=300, burst=600)
    new_streams_of_one: Rate = Rate(per_s=150, burst=300)  # of one identity or host: the other half is for the others
    # An Envoy asks some dozens of times when it starts and then ACKs. In a loop of NACKs it sends 2,100 a second.
    requests: Rate = Rate(per_s=100, burst=1_000)
    # A request counts as one for each so many bytes: 100,000 names take 60 ms of CPU, in which everybody waits.
    request_piece_bytes: int = 32 * 1024
    streams: int = 20_000  # a stream costs some 80 KB
    streams_per_node: int = 40  # one for each type, twice while it reconnects; each looks at all the others
    # mutual TLS: a whole fleet may share one certificate, so this is wide, but nobody can take all places
    streams_per_identity: int = 10_000
    streams_per_connection: int = 100  # an Envoy has one, or one for each type; more come through a proxy
    connections: int = 20_000
    handshake_s: float = 10.0  # from accepting a connection to its first HTTP/2 frames, TLS included
    idle_connection_s: float = 60.0  # without any stream; longer than Envoy waits at most before it tries again, 30 s
    first_request_s: float = 15.0  # from a stream's start to its first request: Envoy sends it at once
    # For one response, with some patience: a proxy that stands still for a minute finds its stream as it left it. A
    # peer that answers no ping is gone earlier, see ping_s.
    write_s: float = 120.0
    ping_s: float = 10.0  # how often peers are pinged; finds half-open connections, and Envoys that hang
    ping_answer_s: float = 20.0  # an Envoy that works on ten thousand clusters answers late
    # So that a fleet spreads over servers that were added behind a load balancer; gRPC jitters it by 10 % each way.
    connection_age_s: float = 3_600.0
    connection_grace_s: float = 10.0  # from saying that a connection ends to cutting it: what is being written arrives

    def check_names(self, count: int) -> None:
        """Raise Overloaded when a subscription has too many names."""
        if count > self.names:
            raise Overloaded(f"a subscription names {count} resources; at most {self.names} are accepted")

    def check_name(self, characters: int) -> None:
        """Raise Overloaded when a resource's name, or a version, is too long."""
        if characters > self.name_characters:
            what = f"a name or version of a resource has {characters} characters"
            raise Overloaded(f"{what}; at most {self.name_characters} are accepted")

    def check_streams(self, node_id: str, count: int) -> None:
        """Raise Overloaded when a node has all the streams that it may have."""
        if count >= self.streams_per_node:
            raise Overloaded(f"node '{node_id}' has {count} streams; give each proxy an id of its own")


class TokenBucket:
    """Lets a Rate pass. Full at first; it holds no clock, and no list of what passed."""

    __slots__ = ("_paid_to_s",)

    def __init__(self) -> None:
        self._paid_to_s = float("-inf")  # the time up to which what passed has used the rate

    def take(self, rate: Rate, now_s: float, count: int = 1) -> float:
        """Let so many pass, and return how many seconds they should wait for their turn."""
        self._paid_to_s = max(self._paid_to_s, now_s) + count / rate.per_s
        wait_s = self._paid_to_s - now_s - rate.burst / rate.per_s
        return max(0.0, wait_s)

    def try_take(self, rate: Rate, now_s: float) -> bool:
        """Let one pass when it need not wait; say whether it passed."""
        before_s = self._paid_to_s
        if self.take(rate, now_s) > 0:
            self._paid_to_s = before_s
            return False
        return True


ORIGINS = 10_000  # whose rates are kept; who is forgotten has a full bucket again


class Admission:
    """The streams of a server: how many there are, whose they are, and whether one more may start now."""

    def __init__(self) -> None:
        self._new = TokenBucket()
        self._new_of_one: OrderedDict[object, TokenBucket] = OrderedDict()  # the newest last
        self._streams = 0
        self._by_identity: Counter[frozenset[str]] = Counter()

    @property
    def streams(self) -> int:
        return self._streams

    def enter(self, limits: Limits, peer: Peer, now_s: float) -> None:
        """Count one more stream of this peer. Raises Overloaded when it may not start now; the client comes back."""
        if self._streams >= limits.streams:
            raise Overloaded(f"the server has all the {limits.streams} streams that it takes; add a server")
        if peer.identities is not None and self._by_identity[peer.identities] >= limits.streams_per_identity:
            who = ", ".join(sorted(peer.identities))
            raise Overloaded(f"{who} has {limits.streams_per_identity} streams, and may have no more")
        if not self._bucket_of(peer).try_take(limits.new_streams_of_one, now_s):
            raise Overloaded(f"you start more than {limits.new_streams_of_one.per_s:g} streams a second; try again")
        if not self._new.try_take(limits.new_streams, now_s):
            raise Overloaded(f"more than {limits.new_streams.per_s:g} streams a second want to start; try again")
        self._streams += 1
        if peer.identities is not None:
            self._by_identity[peer.identities] += 1

    def _bucket_of(self, peer: Peer) -> TokenBucket:
        bucket = self._new_of_one.setdefault(peer.origin, TokenBucket())
        self._new_of_one.move_to_end(peer.origin)
        if len(self._new_of_one) > ORIGINS:
            self._new_of_one.popitem(last=False)
        return bucket

    def leave(self, peer: Peer) -> None:
        """Forget a stream that entered."""
        self._streams -= 1
        if peer.identities is not None:
            self._by_identity[peer.identities] -= 1
            if not self._by_identity[peer.identities]:
                del self._by_identity[peer.identities]
