"""What is compiled from the golden cases, a real Envoy accepts and uses, over both variants of the protocol."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import yaml

from rollout.bootstrap import Proxy, bootstrap
from rollout.demo.processes import Backend, Envoy, until
from rollout.exposure import FULL_BP
from rollout.spec import parse_endpoint
from rollout.traffic.compiler import ServiceTraffic, VersionTraffic
from rollout.traffic.publisher import INITIAL, Publisher
from tests.golden.cases import CASES, DELTA_ONLY, files, splits
from xds.cache import Cache
from xds.edge.grpcio import GrpcEdge
from xds.session import ControlPlane, Events

pytestmark = pytest.mark.envoy

EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"
EDGE = {
    "name": "edge",
    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
    "filter_chains": [
        {
            "filters": [
                {
                    "name": "http",
                    "typed_config": {
                        "@type": f"{EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": "edge",
                        "rds": {
                            "route_config_name": "edge",
                            "config_source": {"ads": {}, "resource_api_version": "V3"},
                        },
                        "http_filters": [
                            {
                                "name": "router",
                                "typed_config": {"@type": f"{EXTENSIONS}.http.router.v3.Router"},
                            }
                        ],
                    },
                }
            ]
        }
    ],
}


@dataclass(slots=True)
class Fleet:
    """A control plane in this process and one Envoy; `refused` has the text of every NACK."""

    cache: Cache
    publisher: Publisher
    envoy: Envoy
    protocol: str
    refused: list[str] = field(default_factory=list)

    async def converged(self) -> None:
        def accepted() -> bool:
            nodes = self.cache.connected()
            services = self.publisher.services()
            return bool(self.refused) or (
                len(nodes) == 1
                and not any(state.waiting for state in nodes[0].types.values())
                and not any(self.publisher.lagging(service, ()) for service in services)
            )

        await until(accepted, within_s=120, what="Envoy to accept what is served")
        assert self.refused == []

    async def count(self, stat: str) -> int:
        text = await self.envoy.admin_get(f"/stats?filter=^{stat}$")
        return int(text.rpartition(":")[2] or 0)


@pytest.fixture(params=["sotw", "delta"])
async def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        cache, refused = Cache(), list[str]()
        publisher = Publisher(cache)
        publisher.load(with_listener(files(CASES[0])), {})
        events = Events(
            answered=lambda _, answer: refused.extend(
                [answer.subscription.rejection.text] if answer.rejected and answer.subscription.rejection else []
            )
        )
        edge = GrpcEdge(ControlPlane(cache, events), time.monotonic)
        port = await edge.start("127.0.0.1:0")
        stack.push_async_callback(edge.stop, 0)
        proxy = Proxy(
            "edge-1", "edge", "eu", "eu-1", f"127.0.0.1:{port}", "127.0.0.1:0", delta=request.param == "delta"
        )
        envoy = await stack.enter_async_context(Envoy("edge-1", bootstrap(proxy), tmp_path))
        yield Fleet(cache, publisher, envoy, request.param, refused)


def with_listener(texts: Mapping[str, str]) -> Mapping[str, str]:
    """Envoy asks for the routes of a case only if a listener wants them."""
    if any("listeners:" in text for text in texts.values()):
        return texts
    return {**texts, "edge.yaml": yaml.safe_dump({"listeners": [EDGE]})}


async def test_every_golden_case_is_accepted_untouched_and_split(fleet: Fleet) -> None:
    for case in CASES if fleet.protocol == "delta" else sorted(set(CASES) - DELTA_ONLY):
        fleet.publisher.load(with_listener(files(case)), {})
        await fleet.converged()
        for service, traffic in splits(case).items():
            fleet.publisher.serve(service, traffic)
            await fleet.converged()
    assert await fleet.count("cluster_manager.cds.update_rejected") == 0


async def test_version_with_dots_has_the_stats_that_it_is_asked_for_by(fleet: Fleet) -> None:
    case = "odd_names"
    fleet.publisher.load(with_listener(files(case)), splits(case))
    await fleet.converged()
    for service, version in (("shop.checkout:8080", "v2.1"), ("shop.checkout:8080", "v2_1"), ("unpaid", INITIAL)):
        name = fleet.publisher.stat_name(service, version).replace("|", r"\|")
        assert await fleet.count(f"cluster.{name}.membership_total") == 1, name


SHOP = """
routes:
- name: edge
  virtual_hosts:
  - name: shop
    domains: ["*"]
    routes:
    - { match: { prefix: / }, route: { cluster_header: x-cluster } }
clusters:
- name: checkout
  type: EDS
  eds_cluster_config: { eds_config: { ads: {}, resource_api_version: V3 } }
  connect_timeout: 1s
  health_checks:
  - timeout: 0.5s
    interval: 0.5s
    no_traffic_interval: 0.5s
    unhealthy_threshold: 2
    healthy_threshold: 1
    http_health_check: { path: /healthz }
endpoints:
- cluster_name: checkout
  endpoints:
  - lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: PORT } } } }]
"""


async def test_requests_to_the_cluster_of_the_service_itself_change_version_without_a_gap(
    fleet: Fleet, tmp_path: Path
) -> None:
    """New hosts of a cluster with health checks get nothing until the first one; the old ones are gone by then."""
    async with Backend("v1", tmp_path, name="one") as one, Backend("v2", tmp_path, name="two") as two:
        stable = VersionTraffic(INITIAL, FULL_BP, None)
        candidate = VersionTraffic("v2", 0, (parse_endpoint(two.address),))
        before = ServiceTraffic(INITIAL, (stable, candidate))
        after = ServiceTraffic(
            "v2", (VersionTraffic(INITIAL, 0, None), VersionTraffic("v2", FULL_BP, candidate.endpoints))
        )
        fleet.publisher.load(with_listener({"shop.yaml": SHOP.replace("PORT", str(one.port))}), {"checkout": before})
        await fleet.converged()
        await until(lambda: checked(fleet, "checkout"), within_s=120, what="both backends to be checked")
        answers: list[tuple[int, str]] = []
        async with asyncio.timeout(60), aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            url = f"http://{(await fleet.envoy.listeners())['edge']}/"
            while len(answers) < 300 or answers[-1][1] != "v2":
                if len(answers) == 100:
                    fleet.publisher.serve("checkout", after)
                async with session.get(url, headers={"x-cluster": "checkout"}) as answer:
                    answers.append((answer.status, (await answer.text()).strip()))
        await fleet.converged()
        assert {status for status, _ in answers} == {200}
        assert [version for _, version in answers[:100]] == ["v1"] * 100


async def checked(fleet: Fleet, cluster: str) -> bool:
    """Health checks have reached every host of the cluster, DRAINING ones too."""
    return await fleet.count(f"cluster.{cluster}.health_check.success") >= 4
