"""A client that says anything the protocol allows, about each type by itself: names, wildcards, nonces, reconnects."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.xds.client import PROTOCOLS, Reply, Wire, served
from tests.xds.model import names_in
from tests.xds.test_session import worlds
from xds.cache import Cache
from xds.resources import CLUSTERS, ENDPOINTS, ROUTES, Resource, ResourceType
from xds.stream import BARRIER_S
from xds.subscription import WILDCARD

both = pytest.mark.parametrize("protocol", PROTOCOLS)
TYPES = (CLUSTERS, ENDPOINTS, ROUTES)
NAMES: Mapping[ResourceType, tuple[str, ...]] = {
    CLUSTERS: ("a", "b", "none", WILDCARD),
    ENDPOINTS: ("a", "b", "none", WILDCARD),
    ROUTES: ("r1", "r2", "none"),
}
GHOST = "of an earlier time"


class Record:
    """What a client was told of one type, and which of its names the server has to go by."""

    def __init__(self, type_: ResourceType) -> None:
        self.type = type_
        self.names: frozenset[str] | None = None  # None: nothing was asked for yet
        self.implicit = False
        self.told: dict[str, str | None] = {}
        self.pardoned: set[str] = set()  # what may be told though it did not change
        self.dropped: set[str] = set()  # by a request that came too early; may be told again when it is asked for again
        self.owed: set[str] = set()  # what is to be told, in delta, for it was asked for (again)
        self.brought = False  # the server cannot know what it holds from an earlier stream
        self.due = False  # an answer may come that says nothing new
        self.replies: list[Reply] = []

    @property
    def nonce(self) -> str:
        return self.replies[-1].nonce if self.replies else ""

    def wants(self, name: str) -> bool:
        return self.names is not None and bool(self.names & {name, WILDCARD})

    def begin(self, names: frozenset[str]) -> None:
        self.implicit = self.type.full_state and not names
        self.names = frozenset({WILDCARD}) if self.implicit else self.effective(names)
        self.due = WILDCARD in self.names

    def effective(self, names: frozenset[str]) -> frozenset[str]:
        return names if self.type.full_state else names - {WILDCARD}

    def rename(self, names: frozenset[str]) -> None:
        """Go by other names; what is not wanted any more is forgotten."""
        assert self.names is not None
        self.due = self.due or (WILDCARD in names and WILDCARD not in self.names)
        self.names = names
        self.told = {name: version for name, version in self.told.items() if self.wants(name)}
        self.pardoned = {name for name in self.pardoned if self.wants(name)}

    def hear(self, protocol: str, reply: Reply) -> None:
        """Check one response, and take it down."""
        assert all(self.wants(name) for name in (*reply.names, *reply.removed) if name not in self.pardoned), reply
        if protocol == "sotw" and self.type.full_state:
            assert self.due or self.told != reply.versions, f"{reply} is told twice"
            self.told = {}
        else:
            assert reply.names or reply.removed or self.due, f"{reply} says nothing"
        for name, version in reply.versions.items():
            assert self.told.get(name) != version or name in self.pardoned, f"{self.type} {name} is told twice"
            self.told[name] = version
        for name in reply.removed:
            known = self.told.get(name, "") is not None or name in self.pardoned
            assert known, f"{self.type} -{name} is told twice"
            self.told[name] = None
        self.pardoned -= {*reply.names, *reply.removed}
        self.owed -= {*reply.names, *reply.removed}
        self.due = False
        self.replies.append(reply)


class Anyone:
    """A client without the sense of an Envoy; it knows the protocol's rules, and what they make the server owe it."""

    def __init__(self, protocol: str, first: tuple[Resource, ...]) -> None:
        self.protocol = protocol
        self.cache = Cache()
        self.cache.publish(served(*first))
        self.story: list[str] = []
        self.records = {type_: Record(type_) for type_ in TYPES}
        self.now_s = 0.0
        self.wire = Wire(self.cache, protocol)

    def publish(self, *resources: Resource) -> None:
        self.story.append(f"publish {[f'{each.type} {each.name} {each.version[:4]}' for each in resources]}")
        self.cache.publish(served(*resources))

    def view(self, type_: ResourceType) -> Mapping[str, Resource]:
        assert self.cache.fleet is not None
        return self.cache.fleet.common.views[type_].resources

    # what it says

    def send(self, type_: ResourceType, words: Mapping[str, Any]) -> None:
        self.story.append(f"client: {type_} {words}")
        self.wire.now_s = self.now_s
        self.wire.send({"type_url": type_.url, **words})

    def ask(self, type_: ResourceType, names: frozenset[str], nonce: str, extra: Mapping[str, Any]) -> None:
        """Say all names that are wanted (SotW)."""
        record = self.records[type_]
        if record.names is None:
            record.begin(names)
            nonce = ""
        elif nonce == record.nonce:
            record.pardoned |= record.dropped & names
            record.dropped.clear()
            if names or not record.implicit:
                record.implicit = False
                record.rename(record.effective(names))
        elif not type_.full_state:
            record.dropped |= record.names - names
        self.send(type_, {"resource_names": sorted(names), "response_nonce": nonce, **extra})

    def subscribe(self, type_: ResourceType, more: frozenset[str], less: frozenset[str], nonce: str) -> None:
        """Say which names are wanted from now on, and which not any more (delta)."""
        record = self.records[type_]
        if record.names is None:
            record.begin(more)
            less = frozenset()
        else:
            more = record.effective(more)
            before = record.names
            record.rename(record.names - less | more)
            # A wildcard that comes with the same request counts: which of the two is first in it nobody can say.
            again = (more | (less & before if WILDCARD in record.names else frozenset())) - {WILDCARD}
            record.pardoned |= again
            record.owed = {name for name in record.owed | again if record.wants(name)}
            record.due = record.due or WILDCARD in more
        words = {"resource_names_subscribe": sorted(more), "resource_names_unsubscribe": sorted(less)}
        self.send(type_, {**words, "response_nonce": nonce})

    def request(self, type_: ResourceType, more: frozenset[str], less: frozenset[str], which: str) -> None:
        """Say anything: with the last nonce, an older one, a strange one or none."""
        record = self.records[type_]
        older = record.replies[0].nonce if record.replies else ""
        nonce = {"last": record.nonce, "older": older, "strange": "x-1", "none": ""}[which]
        if self.protocol == "sotw":
            self.ask(type_, more, nonce, {})
        else:
            self.subscribe(type_, more, less, nonce)

    def answer(self, type_: ResourceType, which: str) -> None:
        """ACK or NACK the last response, or ACK an older one, with the names as they are."""
        record = self.records[type_]
        if not record.replies or record.names is None:
            return
        reply = record.replies[0] if which == "older" else record.replies[-1]
        extra: dict[str, Any] = {"error_detail": {"code": 3, "message": "no"}} if which == "nack" else {}
        if self.protocol == "sotw":
            names = frozenset() if record.implicit else record.names
            self.ask(type_, names, reply.nonce, {"version_info": reply.version, **extra})
        else:
            self.send(type_, {"response_nonce": reply.nonce, **extra})

    def reconnect(self, *, shows: bool) -> None:
        """Open another stream and ask for the same; in delta also with a ghost, and a version that is not right."""
        assert self.cache.fleet is not None
        self.wire.session.close(self.now_s)
        self.story.append("connect")
        self.wire = Wire(self.cache, self.protocol, now_s=self.now_s)
        for type_, old in self.records.items():
            record = self.records[type_] = Record(type_)
            if old.names is None:
                continue
            names = frozenset() if old.implicit else old.names
            if self.protocol == "sotw":
                # Only full-state types may be skipped, so others may show the very version that is served.
                known = "another" if type_.full_state else self.cache.fleet.common.views[type_].version
                record.brought = shows
                self.ask(type_, names, "", {"version_info": known} if shows else {})
                record.due = record.due or (shows and type_.full_state)
            else:
                record.begin(names)
                held = {name: version for name, version in old.told.items() if version is not None}
                brought = {**held, **dict.fromkeys(("a", "ghost"), GHOST)} if shows else {}
                record.told = {name: version for name, version in brought.items() if record.wants(name)}
                record.pardoned = {
                    name
                    for name, version in record.told.items()
                    if type_ is ENDPOINTS or version != self.served(type_, name)
                }
                record.due = record.due and not record.told
                self.send(type_, {"resource_names_subscribe": sorted(names), "initial_resource_versions": brought})

    def served(self, type_: ResourceType, name: str) -> str | None:
        resource = self.view(type_).get(name)
        return None if resource is None else resource.version

    # what it hears

    def hear(self) -> None:
        self.wire.now_s = self.now_s
        for reply in self.wire.replies():
            self.story.append(f"server: {reply}")
            if reply.type is CLUSTERS:
                self._excuse_assignments(reply)
            self.records[reply.type].hear(self.protocol, reply)

    def _excuse_assignments(self, reply: Reply) -> None:
        told = self.records[CLUSTERS].told
        changed = [message for name, message in reply.messages.items() if told.get(name) != reply.versions[name]]
        self.records[ENDPOINTS].pardoned |= {name for each in changed for name in names_in(CLUSTERS, each, ENDPOINTS)}

    def settle(self) -> None:
        """Accept everything, until all has been said that time allows."""
        for _ in range(6):
            self.hear()
            for type_ in TYPES:
                self.answer(type_, "last")
                self.hear()
            self.now_s += BARRIER_S

    def named(self) -> frozenset[str]:
        """Return the clusters that its routes name; any, when it brought routes that nobody knows."""
        routes = self.records[ROUTES]
        told = {name: message for reply in routes.replies for name, message in reply.messages.items()}
        if routes.brought and routes.names and routes.names - told.keys():
            return frozenset(self.records[CLUSTERS].told)
        return frozenset(name for message in told.values() for name in names_in(ROUTES, message, CLUSTERS))

    def check(self) -> None:
        """It was told exactly what is served under its names."""
        for type_, record in self.records.items():
            expected = {name: each.version for name, each in self.view(type_).items() if record.wants(name)}
            told = {name: version for name, version in record.told.items() if version is not None}
            if type_ is CLUSTERS:  # those stay that a route names which was never said to be gone
                kept = self.named() - expected.keys()
                told = {name: version for name, version in told.items() if name not in kept}
            if self.protocol == "sotw" and not type_.full_state:
                told = {
                    name: version for name, version in told.items() if name in self.view(type_)
                }  # absence is untold
            assert told == expected, type_
            if self.protocol == "delta" and record.names is not None:
                missing = record.names - self.view(type_).keys() - {WILDCARD}
                assert all(name in record.told for name in missing), f"{type_} {missing}: not said to be missing"
                assert not record.owed, f"{type_} {record.owed}: not told though asked for"


def requests() -> st.SearchStrategy[Any]:
    def of(type_: ResourceType) -> st.SearchStrategy[Any]:
        some = st.frozensets(st.sampled_from(NAMES[type_]), max_size=3)
        which = st.sampled_from(["last", "last", "older", "strange", "none"])
        return st.tuples(st.just("request"), st.just(type_), some, some, which)

    return st.one_of([of(type_) for type_ in TYPES])


def steps() -> st.SearchStrategy[list[Any]]:
    answers = st.tuples(st.just("answer"), st.sampled_from(TYPES), st.sampled_from(["last", "older", "nack"]))
    publishes = st.tuples(st.just("publish"), worlds(refusable=False))
    simple = st.sampled_from([("hear",), ("hear",), ("tick",), ("settle",), ("reconnect", True), ("reconnect", False)])
    return st.lists(st.one_of(requests(), requests(), requests(), answers, simple, publishes), max_size=25)


def follow(client: Anyone, script: list[Any]) -> None:
    for verb, *words in script:
        match verb:
            case "tick":
                client.now_s += 0.7
            case "reconnect":
                client.reconnect(shows=words[0])
            case "publish":
                client.publish(*words[0])
            case _:
                getattr(client, verb)(*words)
    client.settle()
    client.check()


@both
@settings(max_examples=400)
@given(first=worlds(refusable=False), script=steps())
def test_whatever_a_client_says_it_is_told_what_is_served_and_nothing_twice(
    protocol: str, first: tuple[Resource, ...], script: list[Any]
) -> None:
    client = Anyone(protocol, first)
    try:
        follow(client, script)
    finally:
        note("\n".join(client.story))
