"""What the control plane costs above its edge: CPU and memory to load a configuration, and to publish one change of it.

python bench/compile.py [--only load|weight|endpoint] [--largest N] [--json]

Each row runs in a process of its own, through what the server runs: the text of files -> Publisher.load -> Cache; then
Publisher.serve with one change after the other (the first, which brings the candidate, is not counted). CPU is of the
process, user and system, collections of garbage included.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from statistics import median

from rollout.exposure import FULL_BP
from rollout.spec import parse_endpoint
from rollout.traffic.compiler import ServiceTraffic, VersionTraffic
from rollout.traffic.publisher import Publisher
from xds.cache import Cache

CHANGES = 40
SERVICE = "service-0"
CLUSTER = """\
- name: {name}
  type: EDS
  connect_timeout: 1s
  lb_policy: ROUND_ROBIN
  eds_cluster_config:
    eds_config: {{ads: {{}}, resource_api_version: V3}}
"""
ASSIGNMENT = """\
- cluster_name: {name}
  endpoints:
  - locality: {{region: eu, zone: eu-1}}
    lb_endpoints:
"""
ENDPOINT = """\
    - endpoint:
        address:
          socket_address:
            address: 10.{0}.{1}.{2}
            port_value: 8080
"""
HOST = """\
- name: {name}
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
"""
ROUTE = """\
    - match: {{prefix: /{path}}}
      route: {{cluster: {service}, timeout: 3s}}
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """A configuration: services, endpoints of each, and routes.

    `apart`: each route is a route configuration of its own, else all are in one. `spread`: the routes lead to all
    services in turn, else to one.
    """

    services: int
    endpoints: int
    routes: int
    apart: bool = False
    spread: bool = True

    def __str__(self) -> str:
        routes = f"{self.routes} route{'s' if self.routes > 1 else ''}"
        where = "" if self.routes == 1 else " each of its own configuration" if self.apart else " in one configuration"
        whither = "" if self.routes == 1 or self.spread else " to one service"
        return f"{self.services} x {self.endpoints} endpoints, {routes}{where}{whither}"


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured: CPU seconds of the load, CPU milliseconds of a change (None: none was made), peak memory."""

    what: str
    shape: str
    text_mib: float
    load_cpu_s: float
    change_ms_median: float | None
    change_ms_most: float | None
    peak_mib: float


def files(shape: Shape) -> Mapping[str, str]:
    """Return the configuration as an operator would write it."""
    names = [f"service-{number}" for number in range(shape.services)]
    clusters = "".join(CLUSTER.format(name=name) for name in names)
    assignments = "".join(
        ASSIGNMENT.format(name=name) + "".join(map(_endpoint, range(first, first + shape.endpoints)))
        for name, first in zip(names, range(0, shape.services * shape.endpoints, shape.endpoints), strict=True)
    )
    return {
        "clusters.yaml": f"clusters:\n{clusters}",
        "endpoints.yaml": f"endpoints:\n{assignments}",
        "routes.yaml": f"routes:\n{_routes(shape, names)}",
    }


def _endpoint(number: int) -> str:
    return ENDPOINT.format(number >> 16, number >> 8 & 255, number & 255)


def _routes(shape: Shape, names: list[str]) -> str:
    leads = islice(cycle(names if shape.spread else [SERVICE]), shape.routes)
    routes = [ROUTE.format(path=number, service=name) for number, name in enumerate(leads)]
    if not shape.apart:
        return HOST.format(name="edge") + "".join(routes)
    return "".join(HOST.format(name=f"edge-{number}") + route for number, route in enumerate(routes))


def unchanged(_: Publisher) -> Callable[[int], ServiceTraffic] | None:
    return None


def weight(publisher: Publisher) -> Callable[[int], ServiceTraffic]:
    """Return each step of a rollout: other weights of two versions."""
    stable = publisher.traffic(SERVICE).versions[0]
    candidate = VersionTraffic("v2", 0, (parse_endpoint("10.255.0.1:80"),))

    def step(number: int) -> ServiceTraffic:
        weight_bp = 1 + number % (FULL_BP - 1)
        versions = (replace(stable, weight_bp=FULL_BP - weight_bp), replace(candidate, weight_bp=weight_bp))
        return ServiceTraffic(stable.name, versions)

    return step


def written_endpoint(publisher: Publisher) -> Callable[[int], ServiceTraffic]:
    """Return the service with one of the endpoints that envoy-configs gives it let go, each time another."""
    return _letting_go(publisher.traffic(SERVICE).versions[0], publisher.addresses(SERVICE))


def deployed_endpoint(publisher: Publisher) -> Callable[[int], ServiceTraffic]:
    """Return the service on endpoints that were deployed, one of them let go, each time another."""
    endpoints = tuple(map(parse_endpoint, publisher.addresses(SERVICE)))
    return _letting_go(VersionTraffic("v2", FULL_BP, endpoints), publisher.addresses(SERVICE))


def _letting_go(version: VersionTraffic, addresses: tuple[str, ...]) -> Callable[[int], ServiceTraffic]:
    def step(number: int) -> ServiceTraffic:
        address = addresses[number % len(addresses)]
        return ServiceTraffic(version.name, (replace(version, let_go=frozenset({address})),))

    return step


WHAT = {
    "load": unchanged,
    "weight": weight,
    "endpoint of envoy-configs": written_endpoint,
    "endpoint of a deployment": deployed_endpoint,
}


def measure(what: str, shape: Shape) -> Row:
    """Load a configuration and make changes; in the process that this is called in."""
    texts = files(shape)
    publisher = Publisher(Cache())
    before_s = time.process_time()
    publisher.load(texts, {})
    load_s = time.process_time() - before_s
    step = WHAT[what](publisher)
    spent_ms = [] if step is None else [_serve_ms(publisher, step(number)) for number in range(CHANGES + 1)][1:]
    return Row(
        what,
        str(shape),
        round(sum(map(len, texts.values())) / 2**20, 2),
        round(load_s, 3),
        round(median(spent_ms), 2) if spent_ms else None,
        round(max(spent_ms), 2) if spent_ms else None,
        round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    )


def _serve_ms(publisher: Publisher, traffic: ServiceTraffic) -> float:
    before_s = time.process_time()
    changed = publisher.serve(SERVICE, traffic)
    spent_s = time.process_time() - before_s
    assert changed, traffic
    return spent_s * 1000


def cases(largest: int) -> list[tuple[str, Shape]]:
    """Return what is measured: each at sizes ten times as large as the one before."""
    sizes = [size for size in (10, 100, 1_000, 10_000) if size <= largest]
    services = [Shape(size, 10, 1) for size in sizes]
    rows = [("load", shape) for shape in services]
    rows += [("weight", shape) for shape in services]
    rows += [("weight", Shape(1, 10, size, apart=True, spread=False)) for size in sizes if size <= 1_000]
    rows += [("weight", Shape(size, 1, size, apart=True)) for size in sizes]
    rows += [("weight", Shape(size, 1, size)) for size in sizes]
    rows += [("weight", Shape(1, 10, size, spread=False)) for size in sizes]
    for what in ("endpoint of envoy-configs", "endpoint of a deployment"):
        rows += [(what, Shape(1, size, 1)) for size in sizes]
        rows += [(what, services[-1])]
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="what begins with this")
    parser.add_argument("--largest", type=int, default=10_000, help="of the sizes 10, 100, 1000 and 10000")
    parser.add_argument("--json", action="store_true", help="one object per row")
    wanted = parser.parse_args()
    if not wanted.json:
        print(f"{'what':26}{'configuration':76}{'MiB':>6}{'load s':>8}{'change ms':>11}{'most':>8}{'peak MiB':>10}")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for what, shape in cases(wanted.largest):
            if what.startswith(wanted.only):
                show(pool.apply(measure, (what, shape)), as_json=wanted.json)
    return 0


def show(row: Row, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(row)), flush=True)
        return
    change, most = ("" if each is None else f"{each:.2f}" for each in (row.change_ms_median, row.change_ms_most))
    head = f"{row.what:26}{row.shape:76}{row.text_mib:6.1f}"
    print(f"{head}{row.load_cpu_s:8.2f}{change:>11}{most:>8}{row.peak_mib:10.0f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
