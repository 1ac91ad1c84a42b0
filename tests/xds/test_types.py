"""What is special to a type on the wire: wildcards, virtual hosts that are not there, scopes, TTLs with heartbeats."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.xds.client import ADS, HTTP, NODE, PROTOCOLS, ROUTER, SERVICE, Wire, cluster, route, served
from xds import proto
from xds.cache import Cache
from xds.resources import (
    BY_URL,
    CLUSTERS,
    EXTENSION_CONFIGS,
    LISTENERS,
    ROUTES,
    RUNTIMES,
    SCOPED_ROUTES,
    VIRTUAL_HOSTS,
    Resource,
    ResourceType,
    expiring,
    resource,
)

INTRODUCED_S = 2.0  # until then a client may yet ask for what needs what it has, so nothing is taken from it
FEATURES = {**NODE, "client_features": ["xds.config.supports-resource-ttl"]}
TTL_S = 9.0


class Client:
    """A client that shows each resource as `name`, with `/9s` for a TTL, `~name` for a heartbeat, `?name` for none."""

    def __init__(self, protocol: str, *resources: Resource, node: Mapping[str, Any] = NODE) -> None:
        self.protocol = protocol
        self.cache = Cache()
        self.cache.publish(served(*resources))
        self.wire = Wire(self.cache, protocol)
        self._node: Mapping[str, Any] = {"node": node}
        self.latest: dict[ResourceType, Any] = {}

    def ask(self, type_: ResourceType, *names: str, **more: object) -> None:
        node, self._node = self._node, {}
        self.wire.ask(type_, *names, **{**node, **more})

    def publish(self, *resources: Resource) -> None:
        self.cache.publish(served(*resources))

    def said(self) -> list[str]:
        """Take all that the server has to say now, without an answer."""
        found = []
        while (response := self.wire.session.respond(self.wire.now_s)) is not None:
            kind = "DiscoveryResponse" if self.protocol == "sotw" else "DeltaDiscoveryResponse"
            message = proto.message_class(f"{SERVICE}.{kind}").FromString(response.body)
            self.latest[BY_URL[message.type_url]] = message
            found.append(" ".join((BY_URL[message.type_url].word, *_shown(self.protocol, message))))
        return found

    def settle(self, *names: str) -> list[str]:
        """Accept all that comes; return it."""
        came: list[str] = []
        while said := self.said():
            came += said
            for type_, message in self.latest.items():
                words: dict[str, Any] = {"type_url": type_.url, "response_nonce": message.nonce}
                if self.protocol == "sotw":
                    words |= {"version_info": message.version_info, "resource_names": list(names)}
                self.wire.send(words)
            self.latest.clear()
        return came


def _shown(protocol: str, message: Any) -> Iterator[str]:
    for each in message.resources:
        if protocol == "delta":
            yield _wrapped(each)
        else:
            inner = proto.unpack(each)
            yield _wrapped(inner) if each.type_url.endswith(".Resource") else getattr(inner, "name", "")
    yield from (f"-{name}" for name in getattr(message, "removed_resources", ()))


def _wrapped(each: Any) -> str:
    if list(each.aliases) == [each.name] and not each.HasField("resource"):
        assert not each.version
        return f"?{each.name}"
    ttl = f"/{each.ttl.seconds}s" if each.HasField("ttl") else ""
    return f"{'' if each.HasField('resource') else '~'}{each.name}{ttl}"


def of(type_: ResourceType, **words: Any) -> Resource:
    return resource(type_, proto.parse(type_.message, words))


def host(name: str, cluster_name: str = "", mark: str = "") -> Resource:
    action = {"route": {"cluster": cluster_name}} if cluster_name else {"direct_response": {"status": 200}}
    routes = [{"match": {"prefix": "/"}, "name": mark, **action}]
    return of(VIRTUAL_HOSTS, name=name, domains=[name.rpartition("/")[2]], routes=routes)


def scope(name: str, routes: str) -> Resource:
    key = {"fragments": [{"string_key": name}]}
    return of(SCOPED_ROUTES, name=name, key=key, route_configuration_name=routes)


def runtime(name: str, value: int = 1, ttl_s: float | None = None) -> Resource:
    return expiring(of(RUNTIMES, name=name, layer={"limit": value}), ttl_s)


# virtual hosts, which only delta has


def test_first_request_for_virtual_hosts_names_none_and_gets_all() -> None:
    client = Client("delta", host("edge/a"), host("edge/b"))
    client.ask(VIRTUAL_HOSTS)
    assert client.settle() == ["virtual_hosts edge/a edge/b"]
    client.wire.now_s = INTRODUCED_S
    client.publish(host("edge/b"), host("edge/c"))
    assert client.settle() == ["virtual_hosts edge/c -edge/a"]


def test_virtual_host_that_does_not_exist_is_answered_by_its_alias_each_time_it_is_asked_for() -> None:
    client = Client("delta", host("edge/a"))
    client.ask(VIRTUAL_HOSTS)
    client.settle()
    for _ in range(2):
        client.ask(VIRTUAL_HOSTS, "edge/gone")
        assert client.settle() == ["virtual_hosts ?edge/gone"]
    client.publish(host("edge/a"), host("edge/gone"))
    assert client.settle() == ["virtual_hosts edge/gone"]


def test_virtual_host_that_is_known_is_sent_again_when_it_is_asked_for() -> None:
    client = Client("delta", host("edge/a"))
    client.ask(VIRTUAL_HOSTS)
    client.settle()
    client.ask(VIRTUAL_HOSTS, "edge/a", "edge/b")
    assert client.settle() == ["virtual_hosts edge/a ?edge/b"]


def test_client_that_returns_is_told_of_changes_and_of_what_it_still_waits_for() -> None:
    client = Client("delta", host("edge/a"), host("edge/b", mark="new"))
    versions = {"edge/a": host("edge/a").version, "edge/b": host("edge/b").version, "edge/c": "x", "edge/told": ""}
    client.ask(VIRTUAL_HOSTS, "*", "edge/told", "edge/waits", initial_resource_versions=versions)
    assert client.settle() == ["virtual_hosts edge/b ?edge/waits -edge/c"]


def test_hosts_that_strangers_ask_for_are_not_kept() -> None:
    client = Client("delta", host("edge/a"))
    client.ask(VIRTUAL_HOSTS)
    client.settle()
    before = client.wire.session.stream.types[VIRTUAL_HOSTS]
    for number in range(100):
        client.ask(VIRTUAL_HOSTS, f"edge/{number}")
        client.settle()
    after = client.wire.session.stream.types[VIRTUAL_HOSTS]
    assert (after.names, after.held) == (before.names, before.held)


def test_virtual_host_follows_the_cluster_that_it_leads_to() -> None:
    client = Client("delta", cluster("a"), host("edge/a", "a"))
    client.ask(CLUSTERS)
    client.ask(VIRTUAL_HOSTS)
    client.settle()
    client.wire.now_s = INTRODUCED_S
    client.publish(cluster("b"), host("edge/a", "b"))
    assert client.settle() == ["clusters b", "virtual_hosts edge/a", "clusters -a"]


# scoped routes and extension configs


def test_sotw_says_all_scopes_each_time() -> None:
    client = Client("sotw", scope("a", "main"), scope("b", "main"), route("main"))
    client.ask(SCOPED_ROUTES)
    assert client.settle() == ["scoped_routes a b"]
    client.wire.now_s = INTRODUCED_S
    client.publish(scope("a", "main"), route("main"))
    assert client.settle() == ["scoped_routes a"]


def test_routes_stay_until_no_scope_needs_them() -> None:
    client = Client("delta", scope("a", "old"), route("old"))
    client.ask(CLUSTERS)
    client.ask(LISTENERS)
    client.ask(SCOPED_ROUTES)
    client.ask(ROUTES, "old", "new")
    client.settle()
    client.wire.now_s = INTRODUCED_S
    client.publish(scope("a", "new"), route("new"))
    assert client.settle() == ["scoped_routes a", "routes new", "routes -old"]


def test_extension_config_stays_for_as_long_as_a_listener_that_drains_asks_for_it() -> None:
    discovery = {"config_discovery": {"config_source": ADS, "type_urls": [f"type.googleapis.com/{ROUTER}"]}}

    def edge(*filters: Mapping[str, Any]) -> Resource:
        manager = {"@type": f"type.googleapis.com/{HTTP}", "stat_prefix": "edge", "http_filters": list(filters)}
        chain = {"filters": [{"name": "only", "typed_config": manager}]}
        return of(LISTENERS, name="edge", filter_chains=[chain])

    config = of(EXTENSION_CONFIGS, name="ext", typed_config={"@type": f"type.googleapis.com/{ROUTER}"})
    client = Client("delta", edge({"name": "ext", **discovery}), config)
    client.ask(CLUSTERS)
    client.ask(LISTENERS)
    client.ask(ROUTES, "main")
    client.ask(EXTENSION_CONFIGS, "ext")
    client.settle()
    client.wire.now_s = INTRODUCED_S
    client.publish(edge({"name": "router"}))
    assert client.settle() == ["listeners edge"]
    client.wire.leave(EXTENSION_CONFIGS, "ext")
    assert client.settle() == []
    client.ask(EXTENSION_CONFIGS, "ext")
    assert client.settle() == ["extension_configs -ext"]


# TTL


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ttl_is_told_only_to_a_client_that_knows_ttls(protocol: str) -> None:
    for node, shown in ((NODE, "runtimes fault"), (FEATURES, "runtimes fault/9s")):
        client = Client(protocol, runtime("fault", ttl_s=TTL_S), node=node)
        client.ask(RUNTIMES, "fault")
        assert client.settle("fault") == [shown]


def test_client_without_ttls_hears_no_heartbeat() -> None:
    client = Client("delta", runtime("fault", ttl_s=TTL_S))
    client.ask(RUNTIMES, "fault")
    client.settle()
    assert client.wire.session.wake_at_s(3.0) is None
    client.wire.now_s = 20.0
    assert client.settle() == []


@pytest.mark.parametrize(("protocol", "beat"), [("delta", "runtimes ~fault/9s"), ("sotw", "runtimes fault/9s")])
def test_heartbeats_come_in_time_and_only_sotw_says_the_whole_resource(protocol: str, beat: str) -> None:
    client = Client(protocol, runtime("fault", ttl_s=TTL_S), runtime("steady"), node=FEATURES)
    client.ask(RUNTIMES, "fault", "steady")
    client.settle("fault", "steady")
    client.wire.now_s = INTRODUCED_S
    assert client.settle() == []
    for _ in range(3):
        due_s = client.wire.session.wake_at_s(client.wire.now_s)
        assert due_s is not None
        assert client.wire.now_s < due_s <= client.wire.now_s + TTL_S / 2
        client.wire.now_s = due_s
        assert client.settle("fault", "steady") == [beat]


def test_sotw_heartbeat_of_a_full_state_type_says_all_of_it() -> None:
    lent = expiring(cluster("lent"), TTL_S)
    client = Client("sotw", cluster("kept"), lent, node=FEATURES)
    client.ask(CLUSTERS)
    assert client.settle() == ["clusters kept lent/9s"]
    client.wire.now_s = TTL_S / 2
    assert client.settle() == ["clusters kept lent/9s"]


def test_virtual_host_is_kept_by_saying_all_of_it() -> None:
    client = Client("delta", expiring(host("edge/a"), TTL_S), node=FEATURES)
    client.ask(VIRTUAL_HOSTS)
    assert client.settle() == ["virtual_hosts edge/a/9s"]
    client.wire.now_s = TTL_S / 2
    assert client.settle() == ["virtual_hosts edge/a/9s"]


def test_ttl_of_a_scope_is_not_told_over_sotw_where_its_end_is_an_envoys_end() -> None:
    client = Client("sotw", expiring(scope("a", "main"), TTL_S), route("main"), node=FEATURES)
    client.ask(SCOPED_ROUTES)
    assert client.settle() == ["scoped_routes a"]
    client.wire.now_s = TTL_S
    assert client.settle() == []


def test_another_ttl_is_another_resource_and_none_at_all_ends_the_heartbeats() -> None:
    client = Client("delta", runtime("fault", ttl_s=TTL_S), node=FEATURES)
    client.ask(RUNTIMES, "fault")
    client.settle()
    client.publish(runtime("fault", ttl_s=2 * TTL_S))
    assert client.settle() == ["runtimes fault/18s"]
    client.publish(runtime("fault"))
    assert client.settle() == ["runtimes fault"]
    client.wire.now_s = 4 * TTL_S
    assert client.settle() == []


def test_what_a_client_refused_is_not_kept_by_a_heartbeat() -> None:
    client = Client("delta", runtime("fault", ttl_s=TTL_S), node=FEATURES)
    client.ask(RUNTIMES, "fault")
    client.said()
    words = {"type_url": RUNTIMES.url, "response_nonce": client.latest[RUNTIMES].nonce}
    client.wire.send({**words, "error_detail": {"code": 13, "message": "no good"}})
    client.wire.now_s = TTL_S / 2
    assert client.said() in ([], ["runtimes fault/9s"])  # a heartbeat would be refused for having no body


def test_client_that_returns_with_something_short_lived_hears_of_it_at_once() -> None:
    lent = runtime("fault", ttl_s=TTL_S)
    client = Client("delta", lent, node=FEATURES)
    client.ask(RUNTIMES, "fault", initial_resource_versions={"fault": lent.version})
    assert client.settle() in (["runtimes fault/9s"], ["runtimes ~fault/9s"])


def test_sotw_client_that_returns_with_something_short_lived_hears_of_it_at_once() -> None:
    world = cluster("kept"), expiring(cluster("lent"), TTL_S)
    client = Client("sotw", *world, node=FEATURES)
    version = served(*world).views[CLUSTERS].version
    client.ask(CLUSTERS, version_info=version)
    assert client.settle() == ["clusters kept lent/9s"]


def test_refused_heartbeat_is_followed_by_the_whole_resource() -> None:
    client = Client("delta", runtime("fault", ttl_s=TTL_S), node=FEATURES)
    client.ask(RUNTIMES, "fault")
    client.settle()
    client.wire.now_s = TTL_S / 2
    assert client.said() == ["runtimes ~fault/9s"]
    words = {"type_url": RUNTIMES.url, "response_nonce": client.latest[RUNTIMES].nonce}
    client.wire.send({**words, "error_detail": {"code": 13, "message": "type URL  embedded in an individual Any"}})
    client.wire.now_s = TTL_S
    assert client.said() == ["runtimes fault/9s"]
