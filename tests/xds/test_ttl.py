"""Resources that end by themselves: sent with a TTL, and kept by heartbeats."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.xds.client import NODE, PROTOCOLS, SERVICE, Wire, cluster, served
from xds import proto
from xds.cache import Cache
from xds.resources import CLUSTERS, ROUTES, RUNTIMES, Resource, ResourceType, resource
from xds.session import TTLS

both = pytest.mark.parametrize("protocol", PROTOCOLS)
TTL_S = 30.0


def runtime(name: str, value: int = 1, ttl_s: float | None = TTL_S) -> Resource:
    return resource(RUNTIMES, proto.parse(RUNTIMES.message, {"name": name, "layer": {"value": value}}), ttl_s)


class Listening(Wire):
    """A client that says whether it knows TTLs, and keeps each response as it came."""

    def __init__(self, cache: Cache, protocol: str, *features: str) -> None:
        super().__init__(cache, protocol)
        self._node = {**NODE, "client_features": features}

    def heard(self) -> Any:
        """Return the one response that comes now, and accept it; None when nothing comes."""
        response = self.session.respond(self.now_s)
        assert self.session.respond(self.now_s) is None
        if response is None:
            return None
        kind = "DiscoveryResponse" if self.protocol == "sotw" else "DeltaDiscoveryResponse"
        message = proto.message_class(f"{SERVICE}.{kind}").FromString(response.body)
        words: dict[str, Any] = {"type_url": message.type_url, "response_nonce": message.nonce}
        if self.protocol == "sotw":
            names = self._names.get(response.type, ())
            words |= {"version_info": message.version_info, "resource_names": list(names)}
        self.send(words)
        return message

    def at(self, now_s: float) -> Any:
        self.now_s = now_s
        return self.heard()


def follow(protocol: str, resources: tuple[Resource, ...], type_: ResourceType, *names: str) -> tuple[Cache, Listening]:
    cache = Cache()
    cache.publish(served(*resources))
    client = Listening(cache, protocol, TTLS)
    client.ask(type_, *names)
    return cache, client


def ttls(message: Any) -> Mapping[str, tuple[int, bool]]:
    """Return by name the TTL in seconds and whether there is a body."""
    wrapped = [each for each in message.resources if "ttl" in type(each).DESCRIPTOR.fields_by_name]
    wrapped += [
        proto.unpack(each)
        for each in message.resources
        if getattr(each, "type_url", "").endswith("discovery.v3.Resource")
    ]
    return {each.name: (each.ttl.seconds, each.HasField("resource")) for each in wrapped if each.HasField("ttl")}


def test_delta_heartbeat_has_the_version_and_no_body() -> None:
    _, client = follow("delta", (runtime("a"), runtime("b", ttl_s=None)), RUNTIMES, "a", "b")
    first = client.heard()
    assert ttls(first) == {"a": (30, True)}
    assert client.at(9.9) is None
    assert client.session.wake_at_s(9.9) == TTL_S / 3
    beat = client.at(10.0)
    assert ttls(beat) == {"a": (30, False)}
    assert [each.version for each in beat.resources] == [each.version for each in first.resources if each.name == "a"]
    assert client.session.wake_at_s(10.0) == 20.0
    assert ttls(client.at(20.0)) == {"a": (30, False)}
    assert len(set(client.nonces)) == len(client.nonces)


def test_sotw_heartbeat_is_whole_for_envoy_lets_go_of_one_without_a_body() -> None:
    _, client = follow("sotw", (runtime("a"), runtime("b", ttl_s=None)), RUNTIMES, "a", "b")
    assert ttls(client.heard()) == {"a": (30, True)}
    assert client.at(9.9) is None
    assert ttls(client.at(10.0)) == {"a": (30, True)}


def test_sotw_heartbeat_of_clusters_holds_all_of_them() -> None:
    lasting = cluster("b")
    _, client = follow("sotw", (replace(cluster("a"), ttl_s=TTL_S), lasting), CLUSTERS)
    assert len(client.heard().resources) == 2
    assert len(client.at(10.0).resources) == 2


@both
def test_client_that_does_not_know_ttls_gets_none(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(runtime("a")))
    client = Listening(cache, protocol)
    client.ask(RUNTIMES, "a")
    assert ttls(client.heard()) == {}
    assert client.at(10.0) is None
    assert client.session.wake_at_s(10.0) is None


@both
def test_type_that_outlives_its_ttl_in_envoy_is_sent_without(protocol: str) -> None:
    words = {"name": "main", "virtual_hosts": [{"name": "all", "domains": ["*"]}]}
    route = resource(ROUTES, proto.parse(ROUTES.message, words), TTL_S)
    _, client = follow(protocol, (route,), ROUTES, "main")
    assert ttls(client.heard()) == {}
    assert client.at(10.0) is None


def test_late_heartbeat_is_whole_for_the_client_may_have_let_go() -> None:
    _, client = follow("delta", (runtime("a"),), RUNTIMES, "a")
    client.heard()
    assert ttls(client.at(30.0)) == {"a": (30, True)}


@both
def test_other_ttl_is_a_change(protocol: str) -> None:
    cache, client = follow(protocol, (runtime("a"),), RUNTIMES, "a")
    client.heard()
    cache.publish(served(runtime("a", ttl_s=60.0)))
    assert ttls(client.at(1.0)) == {"a": (60, True)}
    cache.publish(served(runtime("a", ttl_s=None)))
    changed = client.at(2.0)
    assert (len(changed.resources), ttls(changed)) == (1, {})
    assert client.at(60.0) is None


def test_changed_resource_goes_whole_beside_the_heartbeat_of_another() -> None:
    cache, client = follow("delta", (runtime("a"), runtime("b")), RUNTIMES, "a", "b")
    client.heard()
    cache.publish(served(runtime("a"), runtime("b", 2)))
    assert ttls(client.at(10.0)) == {"a": (30, False), "b": (30, True)}
