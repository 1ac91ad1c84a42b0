"""The xDS port with a real Envoy: what it is told, in which order, and what its traffic feels of it."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from rollout.bootstrap import Proxy, bootstrap
from rollout.demo.processes import Envoy, until
from tests.xds.client import ADS, PROTOCOLS, assignment, cluster, listener, served
from xds import proto
from xds.cache import Cache, Wanted
from xds.edge.grpcio import GrpcEdge
from xds.node import Node
from xds.resources import CLUSTERS, ENDPOINTS, ROUTES, Resource, ResourceType, resource
from xds.session import ControlPlane, Events
from xds.stream import Answer, Response

pytestmark = pytest.mark.envoy
SOON_S = 10.0  # it takes some 20 ms; without its load assignment Envoy would wait 15 s
LONG_S = 30.0
CONFIGURED = tuple(
    f"{kind}_manager.{kind}_{what}" for kind in ("cluster", "listener") for what in ("added", "modified", "removed")
)


def root(*clusters: str, regex: str = "") -> Resource:
    """Make the route of all requests: evenly to these clusters."""
    weights = [{"name": name, "weight": 1} for name in clusters]
    match = {"safe_regex": {"regex": regex}} if regex else {"prefix": "/"}
    routes = [{"match": match, "route": {"weighted_clusters": {"clusters": weights}}}]
    words = {"name": "main", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}
    return resource(ROUTES, proto.parse(ROUTES.message, words))


def bad_cluster() -> Resource:
    words = {"name": "bad", "type": "STATIC", "eds_cluster_config": {"eds_config": ADS}}
    return resource(CLUSTERS, proto.parse(CLUSTERS.message, words))


class Place:
    """An Envoy, its control plane in this process, and a backend."""

    def __init__(self, protocol: str, folder: Path, backend_port: int) -> None:
        self.protocol = protocol
        self.folder = folder
        self.backend_port = backend_port
        self.story: list[str] = []
        self.port = 0

    async def serve(self, *resources: Resource) -> None:
        """Start a control plane, with nothing of an earlier one but the port; without resources it is not ready."""
        self.cache = Cache()
        if resources:
            self.cache.publish(served(*resources))
        events = Events(answered=self._answered, responded=self._responded)
        self.edge = GrpcEdge(ControlPlane(self.cache, events), time.monotonic)
        self.port = await self.edge.start(f"127.0.0.1:{self.port}")

    async def run(self) -> None:
        """Start the Envoy and wait until it serves."""
        admin, xds = "127.0.0.1:0", f"127.0.0.1:{self.port}"
        proxy = Proxy("edge-1", "edge", "eu", "eu-1", xds, admin, delta=self.protocol == "delta")
        self.envoy = Envoy("envoy", bootstrap(proxy), self.folder)
        await self.envoy.start()
        await self.envoy.until_ready(within_s=14)  # without what it waits for it would take 15 s
        self.address = (await self.envoy.listeners())["edge"]

    def world(self, *names: str, routed: tuple[str, ...] = (), mark: int = 0) -> tuple[Resource, ...]:
        """Make clusters with the backend, and the route to `routed` of them, or else to all."""
        return (
            *(cluster(name, mark) for name in names),
            *(assignment(name, self.backend_port) for name in names),
            listener("edge", "main", port=0),
            root(*(routed or names)),
        )

    def publish(self, *resources: Resource) -> None:
        self.story.clear()
        self.cache.publish(served(*resources))

    async def until_acked(self, *resources: Resource, within_s: float = LONG_S) -> None:
        wanted = [Wanted(each.type, each.name, each.version) for each in resources]
        await until(lambda: self.follows(*wanted), within_s=within_s, what=f"{self.story}: ACKs")

    def follows(self, *wanted: Wanted) -> bool:
        return bool(self.cache.connected()) and not self.cache.lagging(lambda _: wanted)

    async def clusters(self) -> frozenset[str]:
        """Return the names of the clusters that Envoy has by CDS."""
        dump = json.loads(await self.envoy.admin_get("/config_dump?resource=dynamic_active_clusters"))
        return frozenset(each["cluster"]["name"] for each in dump.get("configs", []))

    async def stats(self, *names: str) -> Mapping[str, str]:
        text = await self.envoy.admin_get(f"/stats?filter=^({'|'.join(names)})$")
        return dict(line.split(": ", 1) for line in text.splitlines())

    def _answered(self, _: Node, answer: Answer) -> None:
        self.story.append(f"{'NACK' if answer.rejected else 'ACK'} {answer.type}")

    def _responded(self, _: Node, response: Response) -> None:
        self.story.append(f"{response.type} {' '.join(response.names)}".rstrip())

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[Counter[int]]:
        """Keep four clients asking, and yield how many answers had which status; at the end it saw the last state."""
        answers: Counter[int] = Counter()
        stop = asyncio.Event()
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(self._ask(session, answers, stop))
            try:
                await until(lambda: answers.total() > 20, within_s=LONG_S, what="the load to start")
                yield answers
                before = answers.total()
                await until(lambda: answers.total() > before + 100, within_s=LONG_S, what="the load to go on")
            finally:
                stop.set()

    async def _ask(self, session: aiohttp.ClientSession, answers: Counter[int], stop: asyncio.Event) -> None:
        while not stop.is_set():
            async with session.get(f"http://{self.address}/") as answer:
                answers[answer.status] += 1
            await asyncio.sleep(0.002)


@pytest.fixture(params=PROTOCOLS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made = Place(request.param, tmp_path, runner.addresses[0][1])
    try:
        yield made
    finally:
        if hasattr(made, "envoy"):
            await made.envoy.kill()
        await made.edge.stop(0)
        await runner.cleanup()


def changed(place: Place, *names: str, all_of: tuple[str, ...]) -> str:
    """Say what a change of these clusters looks like: in SotW every response has all."""
    return " ".join(("clusters", *(all_of if place.protocol == "sotw" else names)))


async def test_envoy_comes_up_and_serves(place: Place) -> None:
    await place.serve(*place.world("a", "b"))
    await place.run()
    assert await place.clusters() == {"a", "b"}
    sent = [each for each in place.story if "ACK" not in each]
    assert sent == ["clusters a b", "endpoints a b", "listeners edge", "routes main"]
    async with place.load() as answers:
        pass
    assert set(answers) == {200}


async def test_changed_cluster_is_warm_and_acked_at_once(place: Place) -> None:
    await place.serve(*place.world("a", "b"))
    await place.run()
    async with place.load() as answers:
        world = place.world("a", "b")
        place.publish(cluster("a", 1), *world[1:])
        await place.until_acked(cluster("a", 1), within_s=SOON_S)
        assert place.story[:2] == [changed(place, "a", all_of=("a", "b")), "endpoints a"]
    assert set(answers) == {200}


async def test_cluster_that_shares_a_load_assignment_is_warm_at_once(place: Place) -> None:
    await place.serve(*place.world("a"))
    await place.run()
    shadow = cluster("shadow", service_name="a")
    place.publish(*place.world("a"), shadow)
    await place.until_acked(shadow, within_s=SOON_S)
    assert await place.clusters() == {"a", "shadow"}


async def test_route_to_a_new_cluster_follows_its_ack(place: Place) -> None:
    await place.serve(*place.world("a"))
    await place.run()
    async with place.load() as answers:
        place.publish(*place.world("a", "b"))
        await place.until_acked(root("a", "b"), within_s=SOON_S)
        order = [place.story.index(each) for each in ("endpoints b", "ACK clusters", "routes main")]
        assert order == sorted(order), place.story
    assert set(answers) == {200}


async def test_weights_are_one_response(place: Place) -> None:
    await place.serve(*place.world("a", "b"))
    await place.run()
    place.publish(*place.world("a", "b", routed=("a",)))
    await place.until_acked(root("a"), within_s=SOON_S)
    assert place.story == ["routes main", "ACK routes"]


async def test_cluster_is_replaced_in_one_publish_without_an_error(place: Place) -> None:
    await place.serve(*place.world("x"))
    await place.run()
    async with place.load() as answers:
        place.publish(*place.world("y"))
        await until(lambda: place.follows(Wanted(CLUSTERS, "x", None)), within_s=LONG_S, what="x to be removed")
        assert await place.clusters() == {"y"}
        added = changed(place, "y", all_of=("x", "y"))
        removed = "clusters y" if place.protocol == "sotw" else "clusters"
        sent = [each for each in place.story if each.startswith(("clusters", "routes"))]
        assert sent == [added, "routes main", removed], place.story
        assert place.story.index("ACK routes") < len(place.story) - 1 - place.story[::-1].index(removed)
    assert set(answers) == {200}


async def test_refused_cluster_is_told_with_envoys_words_and_left_alone(place: Place) -> None:
    await place.serve(*place.world("a"))
    await place.run()
    async with place.load() as answers:
        place.publish(*place.world("a", "good"), bad_cluster())
        await place.until_acked(root("a", "good"), within_s=SOON_S)  # the good part of the refused response counts
        rejection = place.cache.connected()[0].types[CLUSTERS].rejection
        assert rejection is not None
        assert rejection.text.startswith("Error adding/updating cluster(s) bad: ")
        lag = place.cache.lagging(lambda _: [Wanted(CLUSTERS, "bad", bad_cluster().version)])["edge-1"]
        assert (lag.refused, rejection.text in lag.why) == (True, True)
    assert set(answers) == {200}
    assert place.story.count("NACK clusters") == 1
    assert (await place.clusters()) == {"a", "good"}
    place.publish(*place.world("a", "good"))
    await until(lambda: rejected(place, CLUSTERS) == "", within_s=LONG_S, what="the NACK to be forgotten")


async def test_refused_route_leaves_the_old_one_and_is_not_repeated(place: Place) -> None:
    await place.serve(*place.world("a", "b"))
    await place.run()
    async with place.load() as answers:
        place.publish(*place.world("a", "b")[:-1], root("a", regex="(["))
        await until(lambda: "missing" in rejected(place, ROUTES), within_s=LONG_S, what="the NACK")
        other = assignment("b", 9)  # other types go on
        place.cache.publish(served(*place.world("a")[:3], cluster("b"), other, root("a", regex="([")))
        await place.until_acked(other)
    assert place.story.count("NACK routes") == place.story.count("routes main") == 1
    assert 404 not in answers
    place.publish(*place.world("a", "b", routed=("a",)))
    await place.until_acked(root("a"))
    assert rejected(place, ROUTES) == ""


def rejected(place: Place, type_: ResourceType) -> str:
    """Return the text of the NACK that stands."""
    rejection = place.cache.connected()[0].types[type_].rejection
    return rejection.text if rejection is not None else ""


async def test_restarted_server_with_the_same_content_changes_nothing(place: Place) -> None:
    world = place.world("a", "b")
    await place.serve(*world)
    await place.run()
    before = await place.stats(*CONFIGURED)
    assert before.keys() == set(CONFIGURED)
    async with place.load() as answers:
        await place.edge.stop(0)
        place.story.clear()
        await place.serve(*reversed(world))
        await until(lambda: bool(place.cache.connected()), within_s=LONG_S, what="Envoy to come back")
        await place.until_acked(*world)
        await place.until_acked(assignment("a", place.backend_port))
    assert await place.stats(*CONFIGURED) == before
    assert not any(each.startswith(("clusters", "listeners", "NACK")) for each in place.story), place.story
    assert set(answers) == {200}


async def test_server_that_changed_while_it_was_away_replaces_without_an_error(place: Place) -> None:
    await place.serve(*place.world("x", "y", routed=("x",)))
    await place.run()
    async with place.load() as answers:
        await place.edge.stop(0)
        await place.serve(*place.world("x", "y", routed=("y",)))
        await place.until_acked(root("y"))
        place.publish(*place.world("y"))
        await until(lambda: place.follows(Wanted(CLUSTERS, "x", None)), within_s=LONG_S, what="x to be removed")
    assert set(answers) == {200}


async def test_server_without_a_snapshot_takes_nothing_away(place: Place) -> None:
    await place.serve(*place.world("a"))
    await place.run()
    tried = "cluster.xds_cluster.upstream_rq_total"
    before = int((await place.stats(tried))[tried])

    async def asked_again() -> bool:
        return int((await place.stats(tried))[tried]) >= before + 2

    async with place.load() as answers:
        await place.edge.stop(0)
        await place.serve()
        await until(asked_again, within_s=LONG_S, what="Envoy to ask again")
        assert place.cache.connected() == ()
        assert await place.clusters() == {"a"}
        place.publish(*place.world("a", "b"))
        await place.until_acked(root("a", "b"))
        assert await place.clusters() == {"a", "b"}
    assert set(answers) == {200}


async def test_endpoints_that_change_are_one_response(place: Place) -> None:
    await place.serve(*place.world("a"))
    await place.run()
    moved = assignment("a", 9)
    place.publish(cluster("a"), moved, listener("edge", "main", port=0), root("a"))
    await place.until_acked(moved, within_s=SOON_S)
    assert place.story == ["endpoints a", f"ACK {ENDPOINTS}"]
