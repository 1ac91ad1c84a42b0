"""gRPC's own xDS client in a process of its own, buying without end; and the shops that it buys from."""

import contextlib
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from rollout.demo.processes import PACKAGE_PARENT, Process
from xds import proto
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, Resource, resource

METHOD = "/shop.Checkout/Buy"
BUY_TIMEOUT_S = 10.0
PACE_S = 0.001
ANSWER = "answer: "
WITHIN_S = 60.0
ADS = {"ads": {}, "resource_api_version": "V3"}
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


class Shopper:
    """A gRPC client of a target: `xds:///NAME` without a proxy, or the HOST:PORT of one.

    What each call gave is a line of its output that begins with ANSWER.
    """

    def __init__(self, folder: Path, xds: str, target: str = "xds:///checkout", node_id: str = "shopper-1") -> None:
        self.node_id = node_id
        self.target = target
        self.bootstrap = folder / f"{node_id}.json"
        self.bootstrap.write_text(json.dumps(_bootstrap(xds, node_id, ("xds_v3",))))
        self.process = Process(node_id, folder)
        self._seen = 0

    def keep_what_is_deleted(self, xds: str) -> None:
        """Go on with a resource that the server has no more: a setting of gRPC's own, before the start."""
        features = ("xds_v3", "ignore_resource_deletion")
        self.bootstrap.write_text(json.dumps(_bootstrap(xds, self.node_id, features)))

    async def start(self) -> None:
        command = ("-m", "tests.xds.proxyless", str(self.bootstrap), self.target)
        await self.process.start(sys.executable, *command, cwd=PACKAGE_PARENT)

    async def kill(self) -> None:
        await self.process.kill()

    def forget(self) -> None:
        """Count from now on."""
        self._seen = len(self._lines())

    def answers(self) -> Counter[str]:
        """Return how often each answer came since: a version, or the error of a call."""
        return Counter(self._lines()[self._seen :])

    def all_answers(self) -> Counter[str]:
        return Counter(self._lines())

    def _lines(self) -> list[str]:
        lines = self.process.output.read_text().splitlines()  # gRPC's own log is among them
        return [line.removeprefix(ANSWER) for line in lines if line.startswith(ANSWER)]

    async def bought(self, count: int) -> Counter[str]:
        """Return the answers of as many calls from now on."""
        self.forget()
        await self.until(lambda answers: sum(answers.values()) >= count, f"{count} calls")
        return self.answers()

    async def until(self, condition: Any, what: str) -> None:
        """Wait until a condition holds of the answers."""
        await self.process.until(lambda: bool(condition(self.answers())), within_s=WITHIN_S, what=what)


def _bootstrap(xds: str, node_id: str, features: tuple[str, ...]) -> Mapping[str, Any]:
    server = {"server_uri": xds, "channel_creds": [{"type": "insecure"}], "server_features": features}
    locality = {"region": "eu", "zone": "eu-1"}
    node = {"id": node_id, "cluster": "shoppers", "locality": locality, "metadata": {"rollout.admin": "none"}}
    return {"xds_servers": [server], "node": node}


@contextlib.asynccontextmanager
async def shop(version: str) -> AsyncIterator[int]:
    """Serve a version, and yield its port."""

    async def buy(_request: bytes, _context: Any) -> bytes:
        return version.encode()

    server = grpc.aio.server()
    method = {METHOD.rpartition("/")[2]: grpc.unary_unary_rpc_method_handler(buy)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(METHOD.split("/")[1], method),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


def listener_words(target: str, route: str) -> dict[str, Any]:
    """Return the listener of a target, in Envoy's words."""
    router = {"name": "router", "typed_config": {"@type": ROUTER}}
    rds = {"route_config_name": route, "config_source": ADS}
    manager = {"@type": MANAGER, "stat_prefix": target, "rds": rds, "http_filters": [router]}
    return {"name": target, "api_listener": {"api_listener": manager}}


def cluster_words(name: str) -> dict[str, Any]:
    return {"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": ADS}, "lb_policy": "ROUND_ROBIN"}


def assignment_words(name: str, *ports: int) -> dict[str, Any]:
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}} for port in ports
    ]
    locality = {"locality": {"region": "eu", "zone": "eu-1"}, "load_balancing_weight": 1, "lb_endpoints": endpoints}
    return {"cluster_name": name, "endpoints": [locality]}


def route_words(name: str, action: Mapping[str, Any]) -> dict[str, Any]:
    routes = [{"match": {"prefix": "/"}, "route": dict(action)}]
    return {"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}


def world(ports: Mapping[str, tuple[int, ...]], weights: Mapping[str, int], target: str = "checkout") -> list[Resource]:
    """Make the resources of a target: a cluster for each of `ports`, and a route that splits by `weights`."""
    split = [{"name": name, "weight": weight} for name, weight in weights.items()]
    words = [
        (LISTENERS, listener_words(target, f"{target}-route")),
        (ROUTES, route_words(f"{target}-route", {"weighted_clusters": {"clusters": split}})),
        *((CLUSTERS, cluster_words(name)) for name in ports),
        *((ENDPOINTS, assignment_words(name, *each)) for name, each in ports.items()),
    ]
    return [resource(type_, proto.parse(type_.message, each)) for type_, each in words]


def main(bootstrap: str, target: str) -> None:
    """Buy without end; write what came, or the error of the call."""
    os.environ["GRPC_XDS_BOOTSTRAP"] = bootstrap
    pace = threading.Event()
    with grpc.insecure_channel(target) as channel:
        buy = channel.unary_unary(METHOD)
        while True:
            try:
                word = buy(b"", timeout=BUY_TIMEOUT_S).decode()
            except grpc.RpcError as error:
                word = f"{error.code().name}: {error.details()}"
            sys.stdout.write(f"{ANSWER}{word}\n")
            sys.stdout.flush()
            pace.wait(PACE_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
