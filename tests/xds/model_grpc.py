"""A model of gRPC's own xDS client, which names every resource and takes what a full response leaves out as deleted."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.xds.client import Reply, Wire, read, served
from tests.xds.model import KINDS, PARTS, Pardons, broken_by, names_in
from xds.cache import Cache
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, Resource, ResourceType

NEXT = {LISTENERS: (ROUTES, CLUSTERS), ROUTES: (CLUSTERS,), CLUSTERS: (ENDPOINTS,), ENDPOINTS: ()}


class GrpcModel:
    """SotW over ADS: listener -> routes -> clusters -> endpoints, each by name (gRFC A27, A53, A57).

    It checks what it is told: nothing twice, nothing that it did not ask for when only that counts, no more responses
    than causes, and above all that a response on listeners or clusters leaves out no name that is served.
    """

    def __init__(self, cache: Cache, *targets: str) -> None:
        self.cache = cache
        self.targets = frozenset(targets)
        self.now_s = 0.0
        self.story: list[str] = []
        self.held: dict[ResourceType, dict[str, Any]] = {type_: {} for type_ in KINDS}
        self.accepted: dict[ResourceType, str] = {}
        self.connect()

    def connect(self) -> None:
        self.story.append("connect")
        self.wire = Wire(self.cache, "sotw", now_s=self.now_s)
        self.inbox: list[Reply] = []
        self.outbox: list[tuple[ResourceType, Mapping[str, Any]]] = []
        self.nonces: dict[ResourceType, str] = {}
        self.asked: dict[ResourceType, frozenset[str]] = {}
        self.spoken: dict[ResourceType, frozenset[str]] = {}
        self.last: dict[ResourceType, str] = {}
        self.told: dict[ResourceType, dict[str, str]] = {type_: {} for type_ in KINDS}
        self.pardons = {type_: Pardons() for type_ in KINDS}
        self.spend: Counter[ResourceType] = Counter()
        for type_ in (LISTENERS, ROUTES, CLUSTERS, ENDPOINTS):
            self._follow(type_)

    def reconnect(self) -> None:
        self.wire.session.close(self.now_s)
        self.connect()

    def restart(self) -> None:
        """Put another server in the place of this one: the same content, nothing known of its clients."""
        fleet = self.cache.fleet
        assert fleet is not None
        self.cache = Cache()
        self.cache.publish(fleet)
        self.reconnect()

    def publish(self, *resources: Resource) -> None:
        self.story.append(f"publish {[f'{each.type} {each.name} {each.version[:4]}' for each in resources]}")
        self.cache.publish(served(*resources))
        self.spend.clear()

    # what it says

    def wanted(self, type_: ResourceType) -> frozenset[str]:
        if type_ is LISTENERS:
            return self.targets
        return frozenset(
            name
            for user, used in NEXT.items()
            if type_ in used
            for message in self.held[user].values()
            for name in names_in(user, message, type_)
        )

    def _follow(self, type_: ResourceType) -> None:
        """Ask for a type when its names changed; never with none before there were some."""
        names = self.wanted(type_)
        if self.asked.get(type_, frozenset()) != names:
            self._ask(type_)

    def _ask(self, type_: ResourceType, **words: object) -> None:
        self.asked[type_] = self.wanted(type_)
        words |= {
            "resource_names": sorted(self.asked[type_]),
            "version_info": self.accepted.get(type_, ""),
            "response_nonce": self.nonces.get(type_, ""),
        }
        self.outbox.append((type_, {"type_url": type_.url, **words}))

    def speak(self) -> None:
        """Let the server have the oldest request."""
        if not self.outbox:
            return
        type_, words = self.outbox.pop(0)
        names = frozenset(words["resource_names"])
        if words["response_nonce"] == self.last.get(type_, ""):
            self.spend[type_] -= names != self.spoken.get(type_)
            self.spoken[type_] = names
            self.pardons[type_].asked(names)
        else:
            self.pardons[type_].dropped(self.spoken.get(type_, frozenset()) - names)
        for lost in self.told[type_].keys() - names:
            del self.told[type_][lost]
        self.story.append(f"client: {type_} {list(words.values())[1:]}")
        self.wire.send(words)

    # what it hears

    def pull(self) -> None:
        """Let the server say one thing, and check that."""
        self.wire.now_s = self.now_s
        response = self.wire.session.respond(self.now_s)
        if response is None:
            return
        reply = read("sotw", response.body, self.now_s)
        assert reply.nonce not in self.wire.nonces
        self.wire.nonces.append(reply.nonce)
        self.story.append(f"server: {reply}")
        told = self.told[reply.type]
        assert set(reply.names) <= self.spoken[reply.type], f"{reply}: not asked for"
        if reply.type.full_state:
            assert reply.type not in self.last or told != reply.versions, f"{reply} is told twice"
            assert not self._served(reply.type) - reply.versions.keys(), f"{reply} leaves out what is served"
            self.told[reply.type] = dict(reply.versions)
        else:
            assert reply.names, f"{reply} says nothing"
            for name, version in reply.versions.items():
                assert told.get(name) != version or self.pardons[reply.type].take(name), f"{reply} is told twice"
                told[name] = version
        self.spend[reply.type] += 1
        assert self.spend[reply.type] <= PARTS, f"{reply.type}: too many responses"
        if reply.type is CLUSTERS:
            self.spend[ENDPOINTS] -= 1
            self.told[ENDPOINTS].clear()  # it may be told all of them behind a changed cluster
        self.last[reply.type] = reply.nonce
        self.inbox.append(reply)

    def _served(self, type_: ResourceType) -> frozenset[str]:
        """Return the names asked for that are served now."""
        fleet = self.cache.fleet
        assert fleet is not None
        return self.spoken[type_] & fleet.common.views[type_].resources.keys()

    def hear(self) -> None:
        """Work on the oldest response: what is good is used, what is bad leaves what was there."""
        if not self.inbox:
            return
        reply = self.inbox.pop(0)
        held = self.held[reply.type]
        bad = sorted(name for name, message in reply.messages.items() if broken_by(reply.type, message))
        if reply.type.full_state:
            for name in held.keys() - reply.messages.keys():
                del held[name]
        held.update({name: message for name, message in reply.messages.items() if name not in bad})
        self.nonces[reply.type] = reply.nonce
        self.story.append(f"applied: {reply.nonce}" + f" but {bad}" * bool(bad))
        if bad:
            self._ask(reply.type, error_detail={"code": 3, "message": f"{bad}: validation error"})
        else:
            self.accepted[reply.type] = reply.version
            self._ask(reply.type)
        for type_ in (ROUTES, CLUSTERS, ENDPOINTS):
            for name in self.held[type_].keys() - self.wanted(type_):
                del self.held[type_][name]  # nobody watches it any more
            self._follow(type_)

    def settle(self) -> None:
        """Let everything happen until both are silent, and time has passed."""
        for _ in range(400):
            before = (len(self.wire.nonces), len(self.inbox), len(self.outbox))
            self.pull()
            self.hear()
            self.speak()
            if before == (len(self.wire.nonces), 0, 0) and not self.outbox:
                at_s = self.wire.session.wake_at_s(self.now_s)
                if at_s is None:
                    return
                self.now_s = at_s
        raise AssertionError("it never ends")
