"""The demo's parts: what the load client counts, and that it sees drops through a real Envoy."""

import asyncio
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from rollout.demo.backend import Behaviour
from rollout.demo.load import (
    PROXY,
    Fault,
    Head,
    LoadPlan,
    MalformedError,
    Outcome,
    PathShare,
    Pool,
    Tally,
    Target,
    ask,
    mix,
    parse_head,
    request_bytes,
    run_load,
    run_load_for,
)
from rollout.demo.processes import PACKAGE_PARENT, Backend, Envoy, Process, free_port, until
from rollout.errors import Conflict, InvalidSpec, Unavailable

FULL = b"HTTP/1.1 200 OK\r\nx-backend: v1\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nX-Backend: v1\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_HEAD = Head(status=200, backend="v1", content_length=None, chunked=True, closes=False)

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


# A tiny server, whose answers are scripts


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[Pool]:
    """Serve on a free port; each connection is closed when `answer` returns, and all have when the block is left."""
    busy: set[asyncio.StreamWriter] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        busy.add(writer)
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone
        finally:
            writer.close()
            busy.remove(writer)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    pool = Pool(Target("127.0.0.1", server.sockets[0].getsockname()[1]), connections=1, connections_max=4)
    try:
        yield pool
    finally:
        pool.close()
        server.close()
        await until(lambda: not busy, within_s=90, what="the server's connections to end")


def sends(*pieces: bytes) -> Answer:
    """After each request the next piece."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(piece)
            await writer.drain()

    return answer


def keeps_answering(piece: bytes, connections: list[int]) -> Answer:
    """The same piece for ever; each connection adds its count of requests."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(0)
        number = len(connections) - 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            connections[number] += 1
            writer.write(piece)

    return answer


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    linger_nothing = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_nothing)


async def never_answers(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def asked(pool: Pool, timeout_s: float = 30.0) -> tuple[int | None, str | None, Fault | None]:
    head, fault = await ask(pool, request_bytes("/"), timeout_s)
    return (None, None, fault) if head is None else (head.status, head.backend, fault)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param(FULL, (200, "v1", None), id="content-length"),
        pytest.param(CHUNKED + b"2\r\nok\r\n3;x=y\r\nabc\r\n0\r\nend: 1\r\n\r\n", (200, "v1", None), id="chunked"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n" + FULL, (200, "v1", None), id="early hints first"),
        pytest.param(b"HTTP/1.1 204 No Content\r\nx-backend: v1\r\n\r\n", (204, "v1", None), id="no body"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nuntil the end", (200, None, None), id="body until close"),
        pytest.param(FULL[:-1], (200, "v1", Fault.TRUNCATED), id="body too short"),
        pytest.param(CHUNKED + b"5\r\nab", (200, "v1", Fault.TRUNCATED), id="chunk too short"),
        pytest.param(CHUNKED + b"2\r\nok\r\n", (200, "v1", Fault.TRUNCATED), id="no last chunk"),
        pytest.param(FULL[:20], (None, None, Fault.TRUNCATED), id="head too short"),
        pytest.param(b"", (None, None, Fault.CLOSED), id="closed before an answer"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", (None, None, Fault.MALFORMED), id="no HTTP"),
        pytest.param(CHUNKED + b"-2\r\nok\r\n", (200, "v1", Fault.MALFORMED), id="no chunk size"),
    ],
)
async def test_an_answer_is_read_to_its_end_or_named_as_broken(
    pieces: bytes, expected: tuple[int | None, str | None, Fault | None]
) -> None:
    async with served(sends(pieces)) as pool:
        assert await asked(pool) == expected


async def test_a_reset_is_a_fault() -> None:
    async with served(resets) as pool:
        assert await asked(pool) == (None, None, Fault.RESET)


async def test_no_answer_in_time_is_a_fault() -> None:
    async with served(never_answers) as pool:
        assert await asked(pool, timeout_s=0.05) == (None, None, Fault.TIMEOUT)


async def test_a_refused_connection_is_a_fault() -> None:
    pool = Pool(Target("127.0.0.1", free_port()), connections=1, connections_max=1)
    assert await asked(pool) == (None, None, Fault.CONNECT)


async def test_a_former_answer_does_not_stand_for_a_missing_one() -> None:
    async with served(sends(FULL, b"")) as pool:
        assert [await asked(pool), await asked(pool)] == [(200, "v1", None), (None, None, Fault.CLOSED)]


async def test_connections_are_kept_alive() -> None:
    connections: list[int] = []
    async with served(keeps_answering(FULL, connections)) as pool:
        assert {await asked(pool) for _ in range(5)} == {(200, "v1", None)}
    assert connections == [5]


async def test_connection_close_is_obeyed_and_no_drop() -> None:
    connections: list[int] = []
    closing = FULL.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with served(keeps_answering(closing, connections)) as pool:
        assert {await asked(pool) for _ in range(3)} == {(200, "v1", None)}
    assert connections == [1, 1, 1]


async def test_a_connection_closed_while_idle_is_not_used_again() -> None:
    async with served(sends(FULL)) as pool:
        assert {await asked(pool) for _ in range(3)} == {(200, "v1", None)}


async def test_slow_answers_do_not_block_the_rate_and_stop_waits_for_them() -> None:
    stop, outcomes, waiting = asyncio.Event(), list[Outcome](), list[str]()

    async def holds_back_until_three_wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        waiting.append("one more")
        if len(waiting) == 3:
            stop.set()
        await stop.wait()
        writer.write(FULL)

    async with served(holds_back_until_three_wait) as pool, asyncio.timeout(30):
        plan = LoadPlan((pool.target,), rate_per_s=100, paths=(PathShare("/", 1),), connections=1, connections_max=3)
        await run_load(plan, outcomes.append, stop)
    assert len(outcomes) >= 3
    assert not [outcome for outcome in outcomes if outcome.dropped]


# Values


def test_a_head_is_parsed_whatever_its_case() -> None:
    text = b"HTTP/1.1 503 Service Unavailable\r\nCONTENT-LENGTH: 7\r\nconnection: Close\r\n\r\n"
    assert parse_head(text) == Head(status=503, backend=None, content_length=7, chunked=False, closes=True)


def test_a_wrong_content_length_is_malformed() -> None:
    with pytest.raises(MalformedError, match="content-length '-3'"):
        parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: -3\r\n\r\n")


@pytest.mark.parametrize("text", ["", "localhost", "1.2.3.4:", "1.2.3.4:x", "1.2.3.4:0", "1.2.3.4:65536", ":80"])
def test_a_target_without_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="give HOST:PORT"):
        Target.parse(text)


def test_a_plan_without_targets_or_rate_is_refused() -> None:
    with pytest.raises(InvalidSpec):
        LoadPlan(targets=())
    with pytest.raises(InvalidSpec):
        LoadPlan(targets=(Target("127.0.0.1", 80),), rate_per_s=0)


def outcome(
    status: int | None, backend: str | None, fault: Fault | None = None, *, at_s: float = 100.5, seconds: float = 0.01
) -> Outcome:
    return Outcome(at_s, "127.0.0.1:1", "/fast", status, backend, seconds, fault)


@pytest.mark.parametrize(
    ("seen", "dropped", "bad"),
    [
        (outcome(200, "v1"), False, False),
        (outcome(200, None), False, False),
        (outcome(404, "v1"), False, False),
        (outcome(500, "v1"), False, True),
        (outcome(503, None), True, False),
        (outcome(200, "v1", Fault.TRUNCATED), True, False),
        (outcome(None, None, Fault.RESET), True, False),
    ],
)
def test_what_counts_as_dropped_and_as_bad(seen: Outcome, dropped: bool, bad: bool) -> None:
    assert (seen.dropped, seen.bad) == (dropped, bad)


def test_the_tally_adds_up() -> None:
    tally = Tally()
    for seen in [
        outcome(200, "v1"),
        outcome(200, "v2", at_s=101.0),
        outcome(200, "v2", at_s=101.9),
        outcome(500, "v2", at_s=103.0, seconds=0.25),
        outcome(500, "v2", at_s=102.0, seconds=0.5),
        outcome(503, None),
        outcome(200, "v1", Fault.TRUNCATED),
        outcome(None, None, Fault.TIMEOUT),
    ]:
        tally.record(seen)
    assert tally.answers == {(200, "v1"): 1, (200, "v2"): 2, (500, "v2"): 2, (503, PROXY): 1}
    assert tally.faults == {Fault.TRUNCATED: 1, Fault.TIMEOUT: 1}
    assert (tally.requests, tally.dropped) == (8, 3)
    assert (tally.bad, tally.first_bad_at_s) == ({"v2": 2}, {"v2": 102.5})
    assert tally.by_second == {100: {"v1": 1}, 101: {"v2": 2}, 102: {"v2": 1}, 103: {"v2": 1}}
    assert tally.shares(since_s=100) == {"v1": 0.2, "v2": 0.8}
    assert tally.shares(since_s=104) == {}


def test_quantiles_are_right_within_their_promise() -> None:
    tally = Tally()
    for number in range(1, 1001):
        tally.record(outcome(200, "v1", seconds=number / 1000))
    for quantile in (0.5, 0.9, 0.99):
        assert tally.latency["/fast"].quantile_s(quantile) == pytest.approx(quantile, rel=0.026)


# Own processes


@asynccontextmanager
async def streaming(target: Target, path: str) -> AsyncIterator[asyncio.Task[tuple[Head | None, Fault | None]]]:
    """A stream whose head has come; it has ended when the block is left."""
    pool = Pool(target, connections=1, connections_max=1)
    connection = await pool.open()
    pool.give_back(connection)
    async with asyncio.TaskGroup() as group:
        streamed = group.create_task(ask(pool, request_bytes(path), 60))
        await until(lambda: connection.head is not None, within_s=90, what="the stream to begin")
        yield streamed
    pool.close()


async def test_a_program_which_does_not_start_is_told_with_its_output(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        backend = Backend("v1", tmp_path, name="b")
        backend.port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=r"(?s)backend b of v1 to listen: it ended with status 1.*already in use"):
            await backend.start()
    assert not backend.process.running


async def test_a_backend_ends_gracefully_and_starts_again_on_its_port(tmp_path: Path) -> None:
    async with Backend("v1", tmp_path, name="b") as backend:
        port = backend.port
        with pytest.raises(Conflict, match="running already"):
            await backend.start()
        async with streaming(Target.parse(backend.address), "/stream?ms=300") as streamed:
            assert await backend.terminate() == 0
        assert streamed.result() == (STREAM_HEAD, None)
        assert await backend.start() == port
    assert backend.process.running is False


async def test_no_process_outlives_its_parent(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from rollout.demo.processes import Backend\n"
        "async def main():\n"
        "    backend = Backend('v1', pathlib.Path(sys.argv[1]), name='grandchild')\n"
        "    await backend.start()\n"
        "    print('pid', backend.process.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = Process("parent", tmp_path)
    try:
        await parent.start(sys.executable, "-c", program, str(tmp_path), cwd=PACKAGE_PARENT)
        await parent.until(lambda: "pid" in parent.output.read_text(), within_s=90, what="the grandchild to start")
        pid = int(parent.output.read_text().split()[-1])
        assert is_alive(pid)
    finally:
        await parent.kill()
    await until(lambda: not is_alive(pid), within_s=90, what="the grandchild to end")


def is_alive(pid: int) -> bool:
    """A zombie, for which nobody waited, is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# How backends behave


async def statuses(backend: Backend, requests: int = 40, timeout_s: float = 30.0) -> list[int | None]:
    """What it answers, one request after the other; None for no answer in time."""
    pool = Pool(Target.parse(backend.address), connections=1, connections_max=1)
    try:
        return [(await asked(pool, timeout_s))[0] for _ in range(requests)]
    finally:
        pool.close()


async def test_a_backend_behaves_as_it_was_started_and_changes_while_it_runs(tmp_path: Path) -> None:
    outage = tmp_path / "outage"
    async with Backend("v1", tmp_path, name="b", behaviour=Behaviour(error_share=1.0)) as backend:
        assert set(await statuses(backend)) == {500}
        await backend.behave(Behaviour(outage=str(outage)))
        assert set(await statuses(backend)) == {200}
        outage.touch()
        assert set(await statuses(backend)) == {200, 500}
        await backend.behave(Behaviour(cold_s=3600, cold_error_share=1.0))
        assert set(await statuses(backend)) == {500}
        await backend.behave(Behaviour(hang_after_s=0))
        assert await statuses(backend, 1, timeout_s=0.5) == [None]
        await backend.behave(Behaviour())
        assert set(await statuses(backend)) == {200}


async def test_a_backend_takes_the_time_that_it_is_told_to(tmp_path: Path) -> None:
    async with Backend("v1", tmp_path, name="b", behaviour=Behaviour(median_ms=200, sigma=0)) as backend:
        plan = LoadPlan((Target.parse(backend.address),), rate_per_s=50, paths=(PathShare("/fast", 1.0),))
        tally = await run_load_for(plan, 2)
    median_s = tally.latency["/fast"].quantile_s(0.5)
    assert median_s is not None
    assert 0.18 <= median_s <= 0.6


async def test_a_behaviour_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="error_share 2 is not between 0 and 1"):
        Behaviour(error_share=2)
    async with Backend("v1", tmp_path, name="b") as backend:
        pool = Pool(Target.parse(backend.address), connections=1, connections_max=1)
        body = b'{"humour": 1}'
        request = b"POST /behaviour HTTP/1.1\r\nhost: demo\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        head, _ = await ask(pool, request, 5)
        assert head is not None
        assert head.status == 400
        pool.close()


# A real Envoy


def bootstrap(*addresses: str) -> dict[str, object]:
    """A listener on a free port, and behind it all the backends; no control plane."""
    return {
        "node": {"id": "alone", "cluster": "test"},
        "admin": {"address": socket_address("127.0.0.1:0")},
        "static_resources": {
            "clusters": [
                {
                    "name": "app",
                    "connect_timeout": "1s",
                    "load_assignment": {
                        "cluster_name": "app",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": socket_address(text)}} for text in addresses]}
                        ],
                    },
                }
            ],
            "listeners": [listener()],
        },
    }


def listener() -> dict[str, object]:
    extensions = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{extensions}.http.router.v3.Router"}}],
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]}
            ]
        },
    }
    return {
        "name": "in",
        "address": socket_address("127.0.0.1:0"),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def socket_address(text: str) -> dict[str, object]:
    host, _, port = text.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


@asynccontextmanager
async def fronted(folder: Path, *versions: str) -> AsyncIterator[tuple[Envoy, Target, list[Backend]]]:
    """An Envoy in front of one backend of each version."""
    async with AsyncExitStack() as stack:
        backends = [Backend(version, folder, name=f"backend-{version}") for version in versions]
        await asyncio.gather(*(stack.enter_async_context(backend) for backend in backends))
        envoy = Envoy("alone", bootstrap(*(backend.address for backend in backends)), folder)
        await stack.enter_async_context(envoy)
        await envoy.until_ready()
        yield envoy, Target.parse((await envoy.listeners())["in"]), backends


@pytest.mark.envoy
async def test_steady_load_drops_nothing_and_a_killed_backend_shows_as_drops(tmp_path: Path) -> None:
    async with fronted(tmp_path, "v1", "v2") as (_, target, backends):
        plan = LoadPlan((target,), rate_per_s=200, paths=mix(slow_ms=300, stream_ms=300))
        steady = await run_load_for(plan, 3)
        assert (steady.dropped, dict(steady.faults), steady.first_drops) == (0, {}, [])
        assert 500 <= steady.requests == steady.answers.total()
        assert {made_by for _, made_by in steady.answers} == {"v1", "v2"}
        assert 0.3 < steady.shares(since_s=0)["v1"] < 0.7

        broken, stop = Tally(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(run_load(plan, broken.record, stop))
            await until(lambda: broken.requests >= 100, within_s=90, what="the load to run")
            await backends[0].kill()
            await until(lambda: broken.answers[503, PROXY] > 10, within_s=90, what="the drops to show")
            stop.set()
        assert broken.dropped == broken.answers[503, PROXY] + broken.faults.total()
        assert broken.requests == broken.answers.total() + broken.faults.total()


@pytest.mark.envoy
async def test_a_stream_cut_by_a_kill_is_dropped_though_its_status_was_200(tmp_path: Path) -> None:
    async with fronted(tmp_path, "v1") as (_, target, [backend]):
        async with streaming(target, "/stream?ms=60000") as streamed:
            await backend.kill()
        assert streamed.result() == (STREAM_HEAD, Fault.TRUNCATED)


@pytest.mark.envoy
async def test_an_envoy_starts_again_as_the_same_node(tmp_path: Path) -> None:
    async with fronted(tmp_path, "v1") as (envoy, target, _):
        before = envoy.process.pid
        await envoy.restart()
        await envoy.until_ready()
        assert envoy.process.pid != before
        assert '"id": "alone"' in await envoy.admin_get("/server_info")
        again = Target.parse((await envoy.listeners())["in"])
        pool = Pool(again, connections=1, connections_max=1)
        assert await asked(pool) == (200, "v1", None)
        pool.close()
        assert await envoy.terminate() in (0, -signal.SIGTERM)
        assert target.host == again.host


@pytest.mark.envoy
async def test_a_bootstrap_that_envoy_refuses_is_told_with_envoys_words(tmp_path: Path) -> None:
    envoy = Envoy("broken", "node: {id: broken}\nnonsense: 1\n", tmp_path)
    with pytest.raises(Unavailable, match=r"(?s)Envoy broken to start: it ended with status 1.*nonsense"):
        await envoy.start()
    assert not envoy.process.running
