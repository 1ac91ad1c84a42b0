"""What operators mark is remembered, served to every Envoy, and goes with its version."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rollout.exposure import FULL_BP
from rollout.health import Probed
from rollout.record import DropMark, Mark, PutIll, PutMark
from rollout.store.sqlite import open_store
from rollout.traffic.compiler import ServiceTraffic, VersionTraffic
from rollout.traffic.publisher import check
from tests.golden.cases import words
from tests.rollout.operating import ANN, deployment, running

AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
FULL, COLD = (
    Mark("checkout", "10.0.0.1:80", "alice", AT, "its disk is full"),
    Mark("checkout", "[::1]:80", "bob", AT),
)
SHOP = """
clusters:
- { name: checkout, type: EDS, eds_cluster_config: { eds_config: { ads: {}, resource_api_version: V3 } } }
endpoints:
- cluster_name: checkout
  endpoints:
  - lb_endpoints:
    - endpoint: { address: { socket_address: { address: 10.0.0.1, port_value: 80 } } }
    - endpoint: { address: { socket_address: { address: 10.0.0.2, port_value: 80 } } }
    - endpoint: { address: { socket_address: { address: 10.0.0.3, port_value: 80 } } }
routes:
- name: edge
  virtual_hosts: [{ name: all, domains: ["*"], routes: [{ match: { prefix: / }, route: { cluster: checkout } }] }]
"""
NAMED = (
    SHOP
    + """
  request_mirror_policies: [{ cluster: checkout }]
"""
)


async def test_marks_come_back_as_they_were_saved(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.save([PutMark(FULL), PutMark(COLD)], engine_s=1.0)
    await store.close()
    store = await open_store(tmp_path)
    assert set((await store.load()).marks) == {FULL, COLD}
    await store.save([DropMark("checkout", FULL.address), DropMark("checkout", "10.9.9.9:80")], engine_s=2.0)
    assert (await store.load()).marks == (COLD,)
    await store.close()


async def test_who_is_ill_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.save([PutIll("checkout", frozenset({"a:1", "b:1"})), PutIll("cart", frozenset({"c:1"}))], engine_s=1.0)
    await store.save([PutIll("checkout", frozenset({"b:1"})), PutIll("cart", frozenset())], engine_s=2.0)
    await store.close()
    store = await open_store(tmp_path)
    assert (await store.load()).ill == {"checkout": frozenset({"b:1"})}
    await store.close()


async def test_what_probes_have_found_ill_is_so_in_the_first_that_is_served_after_a_restart(tmp_path: Path) -> None:
    bad, good = "10.0.0.11:80", "10.0.0.12:80"
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(deployment("v2", bad, good, probe={"tcp": True}), ANN)
        engine.probed["checkout", "v2"] = {bad: Probed(False, 90.0, "refused", 3), good: Probed(healthy=True)}
        await engine.steps(5)
        assert engine.health("checkout@v2") == {bad: "UNHEALTHY", good: "HEALTHY"}
    async with running(tmp_path, now_s=200.0) as engine:
        assert engine.health("checkout@v2") == {bad: "UNHEALTHY", good: "HEALTHY"}
        await engine.steps(5)
        assert engine.health("checkout@v2") == {bad: "UNHEALTHY", good: "HEALTHY"}


def health(text: str, traffic: ServiceTraffic) -> dict[str, dict[str, str]]:
    """Health by cluster and port of what is served."""
    snapshot = check({"shop.yaml": text}).compiler.common.compile({"checkout": traffic})
    return {
        each["cluster_name"]: {
            lb["endpoint"]["address"]["socket_address"]["address"]: lb.get("health_status", "UNKNOWN")
            for locality in each.get("endpoints", ())
            for lb in locality["lb_endpoints"]
        }
        for each in words(snapshot)["endpoints"]
    }


def test_a_backend_that_is_unhealthy_is_so_in_every_cluster_that_has_it() -> None:
    unhealthy = frozenset({"10.0.0.1:80", "10.0.0.2:80", "10.9.9.9:80"})
    version = VersionTraffic("v1", FULL_BP, None, let_go=frozenset({"10.0.0.2:80"}), unhealthy=unhealthy)
    expected = {"10.0.0.1": "UNHEALTHY", "10.0.0.2": "DRAINING", "10.0.0.3": "UNKNOWN"}
    assert health(SHOP, ServiceTraffic("v1", (version,))) == {"checkout@v1": expected}
    assert health(NAMED, ServiceTraffic("v1", (version,))) == {"checkout": expected, "checkout@v1": expected}


def test_a_version_keeps_what_can_be_used_whatever_is_found_of_it() -> None:
    """As when one is let go in the moment in which the other is found ill: a bad backend is better than none."""
    everyone = frozenset({"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"})
    version = VersionTraffic("v1", FULL_BP, None, unhealthy=everyone)
    assert set(health(SHOP, ServiceTraffic("v1", (version,)))["checkout@v1"].values()) == {"UNKNOWN"}
    version = replace(version, let_go=frozenset({"10.0.0.1:80"}), removed=frozenset({"10.0.0.2:80"}))
    expected = {"10.0.0.1": "DRAINING", "10.0.0.3": "UNKNOWN"}
    assert health(SHOP, ServiceTraffic("v1", (version,))) == {"checkout@v1": expected}


def test_an_ipv6_address_is_known_however_it_is_written() -> None:
    text = SHOP.replace("10.0.0.1", '"2001:DB8:0:0::1"')
    version = VersionTraffic("v1", FULL_BP, None, let_go=frozenset({"[2001:db8::1]:80"}))
    assert health(text, ServiceTraffic("v1", (version,)))["checkout@v1"]["2001:DB8:0:0::1"] == "DRAINING"


def test_a_version_that_is_drained_is_so_with_all_its_backends() -> None:
    going = VersionTraffic("v1", 0, None, draining=True, unhealthy=frozenset({"10.0.0.1:80"}))
    served = health(SHOP, ServiceTraffic("v2", (VersionTraffic("v2", FULL_BP, ()), going)))
    assert set(served["checkout@v1"].values()) == {"DRAINING"}
