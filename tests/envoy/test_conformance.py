"""What Envoy itself does with the protocol, where the rules of docs/conformance.md rest on it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

import aiohttp
import pytest
from aiohttp import web

from rollout.demo.processes import until
from tests.envoy import test_ads
from tests.envoy.test_ads import LONG_S, SOON_S, Place, changed, rejected, root
from tests.xds.client import ADS, assignment, cluster, listener, served
from xds import proto
from xds.cache import Wanted
from xds.resources import CLUSTERS, ENDPOINTS, ROUTES, Resource, resource

pytestmark = pytest.mark.envoy
place = test_ads.place  # the fixture


def emptied(name: str) -> Resource:
    return resource(ENDPOINTS, proto.parse(ENDPOINTS.message, {"cluster_name": name}))


def answered_here() -> Resource:
    """Make the route of all requests without any cluster."""
    routes = [{"match": {"prefix": "/"}, "direct_response": {"status": 204}}]
    words = {"name": "main", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}
    return resource(ROUTES, proto.parse(ROUTES.message, words))


async def status(place: Place) -> int:
    """Ask once; return the status of the answer."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{place.address}/") as answer:
        return answer.status


async def test_route_to_a_cluster_that_is_not_there_is_acked_and_answers_503(place: Place) -> None:
    """So a snapshot that names one must be refused before it is served: Envoy does not say a word."""
    await place.serve(*place.world("a"))
    await place.run()
    lost = root("nowhere")
    place.publish(*place.world("a")[:-1], lost)
    await place.until_acked(lost)
    assert rejected(place, ROUTES) == ""
    assert await status(place) == 503


async def test_load_assignment_that_is_gone_is_not_told_and_an_empty_one_empties(place: Place) -> None:
    """Envoy ignores removed_resources of a live cluster's load assignment, so it would count for nothing."""
    await place.serve(*place.world("a"))
    await place.run()
    world = place.world("a")
    await place.until_acked(*world)
    place.publish(cluster("a"), *world[2:])
    assert await status(place) == 200
    assert place.story == []
    place.publish(cluster("a"), emptied("a"), *world[2:])
    await place.until_acked(emptied("a"))
    assert place.story == ["endpoints a", "ACK endpoints"]
    assert await status(place) == 503


async def test_clusters_that_are_served_no_more_are_all_deleted(place: Place) -> None:
    """Why a server that is not ready answers UNAVAILABLE and never with an empty world: Envoy would obey."""
    await place.serve(*place.world("a", "b"))
    await place.run()
    place.publish(listener("edge", "main", port=0), answered_here())
    gone = [Wanted(CLUSTERS, name, None) for name in ("a", "b")]
    await until(lambda: place.follows(*gone), within_s=LONG_S, what="the clusters to be removed")
    assert await place.clusters() == frozenset()


async def test_ack_of_clusters_waits_until_they_are_warm(place: Place) -> None:
    """The barrier is Envoy's own: the load assignment comes before the ACK of the clusters, and the routes behind."""
    await place.serve(*place.world("a"))
    await place.run()
    place.publish(*place.world("a", "b"))
    await place.until_acked(root("a", "b"), within_s=SOON_S)
    order = [changed(place, "b", all_of=("a", "b")), "endpoints b", "ACK clusters", "routes main"]
    assert [each for each in place.story if each in order] == order, place.story


async def test_cluster_without_a_load_assignment_delays_no_route_to_others(place: Place) -> None:
    """In SotW nothing can be said of it, and Envoy withholds its ACK; in delta it is called removed, and is warm."""
    await place.serve(*place.world("a", "b", routed=("a",)))
    await place.run()
    place.publish(*place.world("a", "b", routed=("b",)), cluster("stuck"))
    await place.until_acked(root("b"), within_s=SOON_S)
    if place.protocol == "sotw":
        assert "ACK clusters" not in place.story
    else:
        await place.until_acked(cluster("stuck"), within_s=SOON_S)
    assert await status(place) == 200


async def test_rejected_version_is_said_once_to_envoy_whatever_else_changes(place: Place) -> None:
    await place.serve(*place.world("a", "b"))
    await place.run()
    place.publish(*place.world("a", "b")[:-1], root("a", regex="(["))
    await until(lambda: rejected(place, ROUTES) != "", within_s=LONG_S, what="the NACK")
    for port in (8, 9):
        moved = assignment("b", port)
        world = (
            cluster("a"),
            cluster("b"),
            assignment("a", place.backend_port),
            moved,
            listener("edge", "main", port=0),
        )
        place.cache.publish(served(*world, root("a", regex="([")))
        await place.until_acked(moved)
    assert place.story.count("routes main") == place.story.count("NACK routes") == 1


# what Envoy does with an endpoint


class Backend:
    """A backend that says its name, and at /slow only when it is let go."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = asyncio.Event()
        self.free = asyncio.Event()
        self.port = 0

    async def answer(self, request: web.Request) -> web.Response:
        if request.path == "/slow":
            self.asked.set()
            await self.free.wait()
        return web.Response(text=self.name)


@contextlib.asynccontextmanager
async def backends(*names: str) -> AsyncIterator[tuple[Backend, ...]]:
    async with contextlib.AsyncExitStack() as stack:
        found = tuple(Backend(name) for name in names)
        for backend in found:
            app = web.Application()
            app.router.add_get("/{any:.*}", backend.answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            backend.port = runner.addresses[0][1]
        yield found


def calm(name: str) -> Resource:
    """Make a cluster that never panics."""
    words = {"eds_cluster_config": {"eds_config": ADS}, "common_lb_config": {"healthy_panic_threshold": {"value": 0}}}
    return resource(CLUSTERS, proto.parse(CLUSTERS.message, {"name": name, "type": "EDS", **words}))


def hosts(name: str, health: Mapping[int, str]) -> Resource:
    """Make a load assignment of these ports with their health."""
    found = [
        {
            "endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}},
            "health_status": status,
        }
        for port, status in health.items()
    ]
    words = {"cluster_name": name, "endpoints": [{"lb_endpoints": found}]}
    return resource(ENDPOINTS, proto.parse(ENDPOINTS.message, words))


async def answers(place: Place, times: int) -> set[tuple[int, str]]:
    """Ask so often; return what came, a failure as its status alone."""
    found = set()
    async with aiohttp.ClientSession() as session:
        for _ in range(times):
            async with session.get(f"http://{place.address}/") as answer:
                found.add((answer.status, await answer.text() if answer.ok else ""))
    return found


async def test_host_that_drains_or_is_unhealthy_gets_no_new_request_from_its_ack_on(place: Place) -> None:
    front = (listener("edge", "main", port=0), root("a"))
    async with backends("one", "two") as (one, two):
        both_healthy = hosts("a", {one.port: "HEALTHY", two.port: "HEALTHY"})
        await place.serve(calm("a"), both_healthy, *front)
        await place.run()
        for health in ("DRAINING", "UNHEALTHY", "TIMEOUT"):
            await place.until_acked(both_healthy)
            assert await answers(place, 20) == {(200, "one"), (200, "two")}
            changed_one = hosts("a", {one.port: "HEALTHY", two.port: health})
            place.publish(calm("a"), changed_one, *front)
            await place.until_acked(changed_one, within_s=SOON_S)
            assert await answers(place, 20) == {(200, "one")}, health
            place.publish(calm("a"), both_healthy, *front)


async def test_panic_sends_requests_to_hosts_that_drain_and_threshold_0_does_not(place: Place) -> None:
    front = (listener("edge", "main", port=0), root("a"))
    draining = hosts("a", {place.backend_port: "DRAINING"})
    await place.serve(cluster("a"), draining, *front)
    await place.run()
    assert await status(place) == 200
    place.publish(calm("a"), draining, *front)
    await place.until_acked(calm("a"), draining)
    assert await status(place) == 503


@pytest.mark.parametrize("goes", ["the host", "the cluster"])
async def test_request_in_flight_ends_well_when_its_host_or_cluster_goes(place: Place, goes: str) -> None:
    async with backends("one", "two") as (one, two), aiohttp.ClientSession() as session:
        front = listener("edge", "main", port=0)
        before = hosts("a", {one.port: "HEALTHY"})
        after = hosts("a", {two.port: "HEALTHY"})
        await place.serve(cluster("a"), before, front, root("a"))
        await place.run()

        async def slow() -> tuple[int, str]:
            async with session.get(f"http://{place.address}/slow") as answer:
                return answer.status, await answer.text()

        async with asyncio.timeout(LONG_S), asyncio.TaskGroup() as group:
            request = group.create_task(slow())
            await one.asked.wait()
            if goes == "the host":
                place.publish(cluster("a"), after, front, root("a"))
                await place.until_acked(after)
            else:
                place.publish(cluster("b"), hosts("b", {two.port: "HEALTHY"}), front, root("b"))
                gone = Wanted(CLUSTERS, "a", None)
                await until(lambda: place.follows(gone), within_s=LONG_S, what="the cluster to be removed")
            assert await answers(place, 3) == {(200, "two")}
            one.free.set()
            assert await request == (200, "one")
