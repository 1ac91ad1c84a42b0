"""A model of what an Envoy does with responses, which checks all that it is told."""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from tests.xds.client import Reply, Wire, read, served
from xds import proto
from xds.cache import Cache
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, Resource, ResourceType, resource

KINDS = (CLUSTERS, ENDPOINTS, LISTENERS, ROUTES)
BAD, BROKEN = "bad", "broken"  # marks of what an Envoy refuses: one resource for its meaning, or the whole response
BAD_PORT = 1
PARTS = 4  # in how many responses one publish may reach a client, of one type: each barrier may release a part


class Pardons:
    """Names of one type that may be told again: a request that came too early to count (SotW) dropped them.

    Nobody can know whether the client still wanted what was sent to it in between.
    """

    def __init__(self) -> None:
        self._dropped: set[str] = set()
        self._names: set[str] = set()

    def dropped(self, names: Iterable[str]) -> None:
        self._dropped.update(names)

    def asked(self, names: Iterable[str]) -> None:
        """Note a request that counts."""
        self._names |= self._dropped.intersection(names)
        self._dropped.clear()

    def take(self, name: str) -> bool:
        """Say whether this name is pardoned; it is so once."""
        pardoned = name in self._names
        self._names.discard(name)
        return pardoned


class Model:
    """What an Envoy does: it applies, warms, refuses, subscribes, and answers in its own time.

    It checks what it is told: only what it asked for, nothing twice, nothing that is empty of news, no more responses
    than there are causes, no route to a cluster that does not work (but see `_check`), no removal of a cluster that a
    route in force names.
    """

    def __init__(self, cache: Cache, protocol: str) -> None:
        self.cache = cache
        self.protocol = protocol
        self.now_s = 0.0
        self.refused: set[tuple[ResourceType, str, str]] = set()
        self.suspect: set[str] = set()
        self.torn = False
        self.story: list[str] = []
        self.boot()

    def boot(self) -> None:
        """Start as a new process."""
        self.held: dict[ResourceType, dict[str, Any]] = {type_: {} for type_ in KINDS}
        self.noted: dict[ResourceType, dict[str, str]] = {type_: {} for type_ in KINDS}
        self.accepted: dict[ResourceType, str] = {}
        self.working: set[str] = set()
        self.offered_s: dict[str, float] = {}
        self.warming: set[str] = set()
        self.subscribed = {CLUSTERS}
        self.heard = False
        self.initialised = False
        self.tainted = False
        self.strange = False
        self.connect()

    def connect(self) -> None:
        """Open a new stream. After a NACK nobody knows what it holds, so then it is a new process too."""
        self.story.append("connect")
        self.wire = Wire(self.cache, self.protocol, now_s=self.now_s)
        self.inbox: list[Reply] = []
        self.outbox: list[tuple[ResourceType, Mapping[str, Any]]] = []
        self.nonces: dict[ResourceType, str] = {}
        self.asked: dict[ResourceType, frozenset[str]] = {}
        self.told: dict[ResourceType, dict[str, str | None]] = {type_: {} for type_ in KINDS}
        self.pardons = {type_: Pardons() for type_ in KINDS}
        self.blind: set[str] = set()
        self.spoken: dict[ResourceType, frozenset[str]] = {}
        self.last: dict[ResourceType, str] = {}
        self.spend: Counter[ResourceType] = Counter()
        self.withheld: list[tuple[Reply, str]] = []
        for type_ in [each for each in KINDS if each in self.subscribed]:
            self._ask(type_)

    def publish(self, *resources: Resource) -> None:
        """Change what is served."""
        self.story.append(f"publish {[f'{each.type} {each.name} {each.version[:4]}' for each in resources]}")
        self.cache.publish(served(*resources))
        self.spend.clear()

    def restart(self) -> None:
        """Put another server in the place of this one: the same content, nothing known of its clients.

        In SotW a client shows it one version for all; when that is not the one served it cannot know which clusters
        there are to be kept.
        """
        fleet = self.cache.fleet
        assert fleet is not None
        self.cache = Cache()
        self.cache.publish(fleet)
        self.story.append("another server")
        self.strange = self.protocol == "sotw"
        self.reconnect()

    def reconnect(self) -> None:
        self.wire.session.close(self.now_s)
        if self.tainted:
            self.boot()
        else:
            self.connect()

    # what it says

    def wanted(self, type_: ResourceType) -> frozenset[str]:
        """Return the names that it asks for; none stands for the wildcard."""
        if type_ is ENDPOINTS:
            found = (each.eds_cluster_config.service_name or each.name for each in self.held[CLUSTERS].values())
        elif type_ is ROUTES:
            found = (name for each in self.held[LISTENERS].values() for name in names_in(LISTENERS, each, ROUTES))
        else:
            return frozenset()
        return frozenset(found)

    def _ask(self, type_: ResourceType, **words: object) -> None:
        names = self.wanted(type_)
        before = self.asked.get(type_)
        if self.protocol == "sotw":
            words |= {
                "resource_names": sorted(names),
                "version_info": self.accepted.get(type_, ""),
                "response_nonce": words.get("response_nonce", self.nonces.get(type_, "")),
            }
        else:
            words["resource_names_subscribe"] = sorted(names - (before or frozenset()))
            words["resource_names_unsubscribe"] = sorted((before or frozenset()) - names)
            if before is None:
                words["initial_resource_versions"] = dict(self.noted[type_])
        self.asked[type_] = names
        self.subscribed.add(type_)
        self.outbox.append((type_, {"type_url": type_.url, **words}))

    def speak(self) -> None:
        """Let the server have the oldest request."""
        if not self.outbox:
            return
        type_, words = self.outbox.pop(0)
        told = self.told[type_]
        if not type_.full_state:  # what is dropped, and in delta what is asked for, may be told again
            names = words.get("resource_names")
            lost = [name for name in told if name not in names] if names is not None else []
            lost += [*words.get("resource_names_subscribe", ()), *words.get("resource_names_unsubscribe", ())]
            for name in lost:
                told.pop(name, None)
        self.story.append(f"client: {type_} {list(words.values())[1:]}")
        self._count(type_, words)
        self.wire.send(words)

    def _count(self, type_: ResourceType, words: Mapping[str, Any]) -> None:
        """Keep which names count at the server: in SotW those of a request with the last nonce, in delta all."""
        before = self.spoken.get(type_, frozenset())
        names = before
        if self.protocol == "delta":
            added = frozenset(words["resource_names_subscribe"])
            names = before - frozenset(words["resource_names_unsubscribe"]) | added
            self.spend[type_] -= len(added)
        elif words["response_nonce"] == self.last.get(type_, ""):
            names = frozenset(words["resource_names"])
            self.pardons[type_].asked(names)
        else:
            self.pardons[type_].dropped(before.difference(words["resource_names"]))
        self.spend[type_] -= names != before
        self.spoken[type_] = names

    def _answer(self, reply: Reply, error: str) -> None:
        if error:
            self._ask(reply.type, response_nonce=reply.nonce, error_detail={"code": 13, "message": error})
        else:
            self._ask(reply.type, response_nonce=reply.nonce)

    # what it hears

    def pull(self) -> None:
        """Let the server say one thing, and check that it was not said before."""
        self.wire.now_s = self.now_s
        response = self.wire.session.respond(self.now_s)
        if response is None:
            return
        reply = read(self.protocol, response.body, self.now_s)
        assert reply.nonce not in self.wire.nonces
        self.wire.nonces.append(reply.nonce)
        self._check_wanted(reply)
        self._check_news(reply)
        self.last[reply.type] = reply.nonce
        self.inbox.append(reply)
        self.story.append(f"server: {reply}")

    def _check_wanted(self, reply: Reply) -> None:
        """Only what was asked for, no more often than there is cause, and no cluster goes that a route here names."""
        if reply.type in (ENDPOINTS, ROUTES):
            strange = {*reply.names, *reply.removed} - self.spoken[reply.type]
            assert not strange, f"{reply.type} {strange} were not asked for"
        self.spend[reply.type] += 1
        assert self.spend[reply.type] <= PARTS, f"{reply.type}: too many responses"
        if reply.type is CLUSTERS:
            self.spend[ENDPOINTS] -= 1
            gone = (
                set(reply.removed) if self.protocol == "delta" else self.held[CLUSTERS].keys() - reply.messages.keys()
            )
            named = gone & self.held[CLUSTERS].keys() & self.named()
            assert not named or self.strange, f"clusters {named} are removed while a route names them"
            self.blind.update([reply.nonce] * self.strange)
            self.strange = False

    def _check_news(self, reply: Reply) -> None:
        """Nothing that this stream told already and the client did not ask for again."""
        first = reply.type not in self.last
        told = self.told[reply.type]
        if reply.type is CLUSTERS:
            for name, message in reply.messages.items():
                if told.get(name) != reply.versions[name]:
                    self.told[ENDPOINTS].pop(message.eds_cluster_config.service_name or name, None)
        if reply.type.full_state and self.protocol == "sotw":
            assert first or told != reply.versions, f"{reply} is told twice"
            told.clear()
        else:
            assert reply.names or reply.removed or (first and reply.type.full_state), f"{reply} says nothing"
        for name, version in reply.versions.items():
            assert told.get(name) != version or self.pardons[reply.type].take(name), f"{reply} is told twice"
            told[name] = version
        for name in reply.removed:
            assert told.get(name, "") is not None, f"{reply.type} -{name} is told twice"
            told[name] = None

    def hear(self) -> None:
        """Work on the oldest response."""
        if not self.inbox:
            return
        reply = self.inbox.pop(0)
        self.story.append(f"applied: {reply.nonce}")
        self.nonces[reply.type] = reply.nonce
        bad = self._bad(reply)
        everything = any(each[1] == BROKEN for each in bad) or (bool(bad) and reply.type is ENDPOINTS)
        good = {} if everything else {name: each for name, each in reply.messages.items() if (name, BAD) not in bad}
        refused = reply.messages.keys() - good.keys()
        self.refused |= {(reply.type, name, reply.versions[name]) for name in refused}
        self.suspect |= {each for name in refused for each in names_in(reply.type, reply.messages[name], CLUSTERS)}
        self.tainted = self.tainted or bool(bad)
        self.torn = self.torn or (bool(bad) and (everything or len(reply.messages) > 1))
        error = "Proto constraint validation failed" if bad else ""
        if bad and not everything and reply.type in (CLUSTERS, LISTENERS):
            error = f"Error adding/updating {reply.type.word[:-1]}(s) " + ", ".join(
                f"{name}: why" for name, _ in sorted(bad)
            )
        if reply.type is CLUSTERS:
            gone = self.offered_s.keys() - reply.messages.keys() if self.protocol == "sotw" else set(reply.removed)
            kept = {name: at_s for name, at_s in self.offered_s.items() if name not in gone}
            self.offered_s = {**dict.fromkeys(reply.names, reply.at_s), **kept}
        if not everything:
            self._apply(reply, good, refused)
        if not bad:
            self.accepted[reply.type] = reply.version
            self._note(reply)
        if reply.type is ENDPOINTS:
            self._warm(reply)
        if reply.type is CLUSTERS and self.initialised and self.warming:
            self.withheld.append((reply, error))
        else:
            self._answer(reply, error)
        self._follow(reply)

    def _bad(self, reply: Reply) -> set[tuple[str, str]]:
        return {(name, kind) for name, message in reply.messages.items() if (kind := broken_by(reply.type, message))}

    def _note(self, reply: Reply) -> None:
        noted = self.noted[reply.type]
        noted.update(reply.versions)
        for name in reply.removed:
            noted.pop(name, None)

    def _apply(self, reply: Reply, good: Mapping[str, Any], refused: Iterable[str]) -> None:
        held = self.held[reply.type]
        gone = set(reply.removed)
        if reply.type.full_state and self.protocol == "sotw":
            gone = held.keys() - good.keys() - set(refused)
        if reply.type is ENDPOINTS:
            gone = set()  # Envoy keeps the load assignment of a cluster that lives
        for name in gone & held.keys():
            if reply.type is CLUSTERS:
                assert name not in self.named() or reply.nonce in self.blind, f"cluster {name} is removed too soon"
                self.working.discard(name)
                self.warming.discard(name)
            del held[name]
        for name, message in good.items():
            if reply.type is CLUSTERS and held.get(name) != message:
                self.warming.add(name)
            if reply.type in (LISTENERS, ROUTES) and held.get(name) != message:
                self._check(reply, name, message)
            held[name] = message

    def _check(self, reply: Reply, name: str, message: Any) -> None:
        """Allow a route to a cluster that does not work when it is late, or was refused and there is no older route."""
        for cluster_name in names_in(reply.type, message, CLUSTERS) - self.working:
            late = reply.at_s >= self.offered_s.get(cluster_name, reply.at_s) + 2.0
            was_refused = any(each[:2] == (CLUSTERS, cluster_name) for each in self.refused)
            first = name not in self.held[reply.type]
            assert late or (was_refused and first), f"{reply.type} {name} needs {cluster_name}"

    def named(self) -> frozenset[str]:
        """Return the clusters that its routes and listeners name."""
        return frozenset(
            cluster_name
            for type_ in (LISTENERS, ROUTES)
            for message in self.held[type_].values()
            for cluster_name in names_in(type_, message, CLUSTERS)
        )

    def _warm(self, reply: Reply) -> None:
        """A load assignment warms its clusters, even one that is refused."""
        for name in list(self.warming):
            if (self.held[CLUSTERS][name].eds_cluster_config.service_name or name) in reply.messages:
                self.warming.discard(name)
                self.working.add(name)
        if not self.warming:
            pending = (
                self.withheld[-1:] if self.protocol == "sotw" else self.withheld
            )  # SotW: paused, the newest counts
            for each, error in pending:
                self._answer(each, error)
            self.withheld = []

    def _follow(self, reply: Reply) -> None:
        """Ask for what became of interest."""
        if reply.type is CLUSTERS:
            self.heard = True
            self._drop(ENDPOINTS)
            changed = self.asked.get(ENDPOINTS) != self.wanted(ENDPOINTS)
            if changed or (self.protocol == "sotw" and self.warming):
                self._ask(ENDPOINTS)
        if not self.initialised and not self.warming and self.heard:
            self.initialised = True
            self._ask(LISTENERS)
        if reply.type is LISTENERS:
            self._drop(ROUTES)
            if self.asked.get(ROUTES, frozenset()) != self.wanted(ROUTES):
                self._ask(ROUTES)

    def _drop(self, type_: ResourceType) -> None:
        for name in self.held[type_].keys() - self.wanted(type_):
            del self.held[type_][name]
            self.noted[type_].pop(name, None)

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


def broken_by(type_: ResourceType, message: Any) -> str:
    """Return BAD or BROKEN for what this Envoy refuses."""
    if type_ is ENDPOINTS:
        port = message.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value
        return BAD if port == BAD_PORT else ""
    if type_ is CLUSTERS:
        mark = message.alt_stat_name
    elif type_ is ROUTES:
        mark = message.virtual_hosts[0].name
    else:
        inner: Any = proto.unpack(message.filter_chains[0].filters[0].typed_config)
        mark = inner.stat_prefix
    return next((kind for kind in (BAD, BROKEN) if mark.endswith(f"-{kind}")), "")


def names_in(type_: ResourceType, message: Any, wanted: ResourceType) -> frozenset[str]:
    return _read_names(type_, proto.canonical(message), wanted)


@functools.cache
def _read_names(type_: ResourceType, body: bytes, wanted: ResourceType) -> frozenset[str]:
    return resource(type_, proto.message_class(type_.message).FromString(body)).names(wanted)
