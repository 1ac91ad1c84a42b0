"""Where checks are read from: a real Prometheus, a real web server, real programs; good, slow, noisy and hostile."""

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from wsgiref.simple_server import WSGIServer

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from rollout.app import Listening, serve
from rollout.checks import CheckSpec, Names
from rollout.demo.world import configuration
from rollout.errors import InvalidSpec, Unavailable
from rollout.fetching import open_session
from rollout.metrics.sources import Answer, Commands, Source, Sources
from rollout.metrics.sources.command import MAX_OUTPUT_BYTES
from rollout.settings import Settings
from tests.rollout.real_prometheus import prometheus_of
from tests.rollout.waiting import ended, eventually

LIMIT_S = 20.0
NAMES = Names('check"out\\', "v1", "v2", "checkout@v1", "checkout@v2")


@pytest.fixture
async def sources(tmp_path: Path) -> AsyncIterator[Sources]:
    async with open_session() as session:
        yield Sources(session, Commands(tmp_path, os.environ["PATH"]))


def source(sources: Sources, **written: object) -> Source:
    found = sources.source(CheckSpec.model_validate({"max": 1, "timeout": "5s", **written}), NAMES)
    assert found is not None
    return found


async def fault(source: Source) -> str:
    with pytest.raises(Unavailable) as caught:
        await source.read()
    return str(caught.value)


# --- Prometheus ---


@pytest.fixture
def exporter() -> Iterator[int]:
    """Serve some metrics, as a backend does; yield the port."""
    registry = CollectorRegistry()
    used = Gauge("cpu_used", "", ["version", "service"], registry=registry)
    used.labels("v1", NAMES.service).set(0.25)
    used.labels("v2", NAMES.service).set(0.75)
    cluster = Gauge("envoy_cluster_membership_healthy", "", ["envoy_cluster_name"], registry=registry)
    cluster.labels("checkout@v2").set(3)
    server: WSGIServer
    thread: threading.Thread
    server, thread = start_http_server(0, "127.0.0.1", registry)
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
async def prometheus(exporter: int, tmp_path: Path) -> AsyncIterator[str]:
    """Run a real Prometheus that scrapes the exporter; yield its URL once it has."""
    async with prometheus_of(f"127.0.0.1:{exporter}", tmp_path) as url, open_session() as session:
        async with asyncio.timeout(LIMIT_S):
            up = source(Sources(session, Commands(None)), prometheus={"url": url, "query": "count(cpu_used)"})
            await first_answer(up)
        yield url


async def first_answer(source: Source) -> Answer:
    while True:
        with contextlib.suppress(Unavailable):
            return await source.read()
        await asyncio.sleep(0.05)


async def test_a_real_prometheus_gives_one_value_and_says_when_it_has_another_count(
    sources: Sources, prometheus: str
) -> None:
    def query(text: str) -> Source:
        return source(sources, prometheus={"url": prometheus, "query": text})

    where = prometheus.removeprefix("http://") + "/api/v1/query"
    assert await query('cpu_used{version="$candidate", service="$service"}').read() == Answer(0.75)
    assert await query("cpu_used{version='$stable', service='$service'}").read() == Answer(0.25)
    assert await query('envoy_cluster_membership_healthy{envoy_cluster_name="$candidate_cluster"}').read() == Answer(3)
    assert await query("scalar(sum(cpu_used))").read() == Answer(1.0)
    none = f"no value from {where}: no data: "
    assert await fault(query("absent_metric")) == none + "the query finds nothing"
    assert await fault(query("sum(cpu_used) * NaN")) == none + "the value is NaN"
    assert await fault(query("1 / (sum(cpu_used) - 1)")) == f"no value from {where}: '+Inf' is no number"
    two = "the query finds 2 samples; make them one, as by `sum(...)` or `max(...)`"
    assert await fault(query("cpu_used")) == f"no value from {where}: {two}"
    assert "the query gives a matrix; make it give one value" in await fault(query("cpu_used[1m]"))
    assert "HTTP 400: invalid parameter" in await fault(query("sum(cpu_used"))


# --- the web ---


async def good(request: web.Request) -> web.Response:
    document = {
        "data": [{"value": 0.5, "text": "0.25", "ready": True, "none": None, "a.b": 7}],
        "version": request.query.get("version"),
        "authorization": 1 if request.headers.get("Authorization") == "Bearer hush" else 0,
    }
    return web.json_response(document)


async def basic(request: web.Request) -> web.Response:
    return web.json_response(1 if request.headers.get("Authorization", "").startswith("Basic ") else 0)


async def hanging(request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    return web.Response()


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b"1" * 65536)
    return response


async def elsewhere(request: web.Request) -> web.Response:
    raise web.HTTPFound("/good")


async def broken(request: web.Request) -> web.Response:
    return web.json_response({"value": 1}, status=503)


async def page(request: web.Request) -> web.Response:
    return web.Response(text="<html>")


async def deep(request: web.Request) -> web.Response:
    return web.Response(text="[" * 500_000)


@pytest.fixture
async def status() -> AsyncIterator[str]:
    """Run a real web server that answers well and badly; yield its address."""
    app = web.Application()
    for handler in (good, basic, hanging, endless, elsewhere, broken, page, deep):
        app.router.add_get(f"/{handler.__name__}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.0.value", 0.5),
        ("data.0.text", 0.25),
        ("data.0.ready", 1.0),
        (["data", 0, "a.b"], 7.0),
    ],
)
async def test_a_value_in_json_is_found_by_its_path(sources: Sources, status: str, path: object, value: float) -> None:
    assert await source(sources, web={"url": f"http://{status}/good", "path": path}).read() == Answer(value)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("data.1.value", "no data: the list at data has 1 items, none at position 1"),
        ("data.0.valu", "no data: there is no 'valu' at data.0"),
        ("data.0.value.x", "no data: there is no 'x' at data.0.value"),
        ("data.-1", "no data: there is no '-1' at data"),
        ("other", "no data: there is no 'other' at the top"),
        ("data.0.none", "no data: the value is null"),
        ("version", "'v2' is no number"),
        ("data", "is no number"),
    ],
)
async def test_what_is_not_there_is_no_data(sources: Sources, status: str, path: str, told: str) -> None:
    url = f"http://{status}/good?version=$candidate&key=hush"
    said = await fault(source(sources, web={"url": url, "path": path}))
    assert said.startswith(f"no value from {status}/good: ")
    assert told in said
    assert "hush" not in said


async def test_headers_and_a_password_in_the_url_are_sent(sources: Sources, status: str) -> None:
    bearer = {"url": f"http://{status}/good", "path": "authorization", "headers": {"Authorization": "Bearer hush"}}
    assert await source(sources, web=bearer).read() == Answer(1)
    assert await source(sources, web={"url": f"http://me:hush@{status}/basic"}).read() == Answer(1)


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ("hanging", "no answer from ADDRESS/hanging within 0.3 s"),
        ("endless", "no answer from ADDRESS/endless: its answer is longer than 1048576 bytes"),
        ("elsewhere", "no answer from ADDRESS/elsewhere: HTTP 302, and redirects are not followed"),
        ("broken", "no value from ADDRESS/broken: HTTP 503"),
        ("page", "no value from ADDRESS/page: what it answers is no JSON"),
        ("deep", "no value from ADDRESS/deep: what it answers is no JSON"),
        ("missing", "no value from ADDRESS/missing: HTTP 404"),
    ],
)
async def test_a_bad_answer_is_an_outage_that_names_host_and_path_only(
    sources: Sources, status: str, page: str, told: str
) -> None:
    written = {"url": f"http://me:hush@{status}/{page}?key=hush", "path": "value"}
    said = await fault(source(sources, web=written, timeout="300ms" if page == "hanging" else "20s"))
    assert said.startswith(told.replace("ADDRESS", status))
    assert "hush" not in said


async def test_nobody_who_listens_is_an_outage(sources: Sources, status: str) -> None:
    said = await fault(source(sources, web={"url": "http://me:hush@127.0.0.1:1/?key=hush"}))
    assert said == "no answer from 127.0.0.1:1/: Connection refused"
    plain = await fault(source(sources, web={"url": f"https://{status}/good?key=hush"}))
    assert plain == f"no answer from {status}/good: the TLS handshake failed"
    said = await fault(source(sources, web={"url": "http://me:hush@no-such-host.invalid/?key=hush"}))
    assert said.startswith("no answer from no-such-host.invalid/: ")
    assert "hush" not in said


# --- commands ---


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def command(sources: Sources, *words: str, timeout: str = "10s") -> Source:
    return source(sources, command=list(words), timeout=timeout)


async def test_the_exit_code_of_a_command_is_its_value_and_the_end_of_what_it_said_is_kept(
    sources: Sources, tmp_path: Path
) -> None:
    script(tmp_path, "good", "echo fine")
    script(tmp_path, "bad", 'echo "/cart of $1 answers 500" >&2; printf "\\033[31m"; exit 3')
    assert await command(sources, "good").read() == Answer(0)
    assert await command(sources, "bad", "$candidate").read() == Answer(3, "/cart of v2 answers 500 [31m")


async def test_arguments_reach_a_command_as_they_are(sources: Sources, tmp_path: Path) -> None:
    script(tmp_path, "count", 'printf "%s|" "$@"; exit 1')
    found = await command(sources, "count", "a b", "$(id)", "; ls", "*", "$service").read()
    assert found.said == 'a b|$(id)|; ls|*|check"out\\|'


async def test_a_command_has_no_environment_but_the_rollouts_names(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLOUT_TOKEN", "hush")
    script(tmp_path, "names", "env | cut -d= -f1 | grep -v -e PWD -e SHLVL -e '^_$' | sort; exit 1")
    names = "PATH ROLLOUT_CANDIDATE ROLLOUT_CANDIDATE_CLUSTER ROLLOUT_SERVICE ROLLOUT_STABLE ROLLOUT_STABLE_CLUSTER"
    assert (await command(sources, "names").read()).said == names


async def test_a_command_that_a_signal_ends_has_not_passed(sources: Sources, tmp_path: Path) -> None:
    script(tmp_path, "crash", "kill -SEGV $$")
    assert (await command(sources, "crash").read()).value == 139


async def test_a_hanging_command_is_killed_with_all_that_it_has_started(sources: Sources, tmp_path: Path) -> None:
    script(tmp_path, "hang", f"trap '' TERM; sleep 1000 & echo $! > {tmp_path}/child; sleep 1000")
    assert await fault(command(sources, "hang", timeout="2s")) == "hang did not end within 2 s, and was killed"
    child = int((tmp_path / "child").read_text())
    await eventually(lambda: ended(child))


async def test_a_command_is_killed_when_nobody_wants_its_answer_any_more(sources: Sources, tmp_path: Path) -> None:
    script(tmp_path, "hang", f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; sleep 1000")
    reading = asyncio.create_task(command(sources, "hang").read())
    await eventually((tmp_path / "pid").exists)
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    pid = int((tmp_path / "pid").read_text())
    await eventually(lambda: ended(pid))


async def test_a_noisy_command_is_not_listened_to_for_long(sources: Sources, tmp_path: Path) -> None:
    script(tmp_path, "noisy", "exec yes")
    told = f"noisy wrote more than {MAX_OUTPUT_BYTES} bytes; have it say less"
    assert await fault(command(sources, "noisy")) == told
    script(tmp_path, "stubborn", "trap '' PIPE; while :; do yes 2>/dev/null; done")
    assert "stubborn did not end within 0.3 s" in await fault(command(sources, "stubborn", timeout="300ms"))


async def test_what_a_command_leaves_running_holds_nothing_up(sources: Sources, tmp_path: Path) -> None:
    script(tmp_path, "leaves", f"sleep 1000 & echo $! > {tmp_path}/child; echo done; exit 4")
    async with asyncio.timeout(LIMIT_S):
        assert await command(sources, "leaves").read() == Answer(4, "done")
    os.kill(int((tmp_path / "child").read_text()), 9)


def test_only_programs_in_the_folder_itself_may_be_named(tmp_path: Path) -> None:
    folder = tmp_path / "commands"
    (folder / "below").mkdir(parents=True)
    script(folder, "smoke.sh", "exit 0")
    script(folder / "below", "deep", "exit 0")
    script(tmp_path, "outside", "exit 0")
    (folder / "out").symlink_to(tmp_path / "outside")
    (folder / "shell").symlink_to("/bin/sh")
    (folder / "same").symlink_to(folder / "smoke.sh")
    (folder / "text").write_text("no program")
    (folder / "text").chmod(0o644)
    commands = Commands(folder)
    assert (commands.find("smoke.sh"), commands.find("same")) == (folder / "smoke.sh", folder / "same")
    for name in ("out", "shell", "below", "below/deep", "../outside", "..", ".", "", "/bin/sh", "missing", ".hidden"):
        with pytest.raises(InvalidSpec, match="is no file in the folder"):
            commands.find(name)
    with pytest.raises(InvalidSpec, match="cannot be run; do chmod"):
        commands.find("text")


def test_a_server_without_a_folder_runs_no_commands(tmp_path: Path) -> None:
    checks = (CheckSpec.model_validate({"metric": "p99", "max": "1s"}), CheckSpec.model_validate({"command": ["a"]}))
    with pytest.raises(InvalidSpec, match=r"^checks\[1\]\.command: this server runs no commands; start it with --comm"):
        Commands(None).check(checks)
    with pytest.raises(InvalidSpec, match=r"^checks\[1\]\.command: 'a' is no file in the folder"):
        Commands(tmp_path).check(checks)
    Commands(None).check(checks[:1])
    Commands(None).check_folder()


async def test_a_program_that_is_taken_away_is_an_outage(sources: Sources, tmp_path: Path) -> None:
    known = command(sources, "smoke")
    assert "'smoke' is no file in the folder" in await fault(known)
    (tmp_path / "smoke").write_text("#!/no/such/shell\n")
    (tmp_path / "smoke").chmod(0o755)
    assert await fault(known) == "smoke cannot be run: No such file or directory"


def test_a_folder_must_be_there_and_be_its_owners_only(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="No such file or directory; name a folder with programs"):
        Commands(tmp_path / "none").check_folder()
    with pytest.raises(InvalidSpec, match="is no folder; name one with programs"):
        Commands(script(tmp_path, "file", "")).check_folder()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(InvalidSpec, match="everybody may write to it; take that away with chmod o-w"):
        Commands(tmp_path / "open").check_folder()
    Commands(tmp_path).check_folder()


@contextlib.asynccontextmanager
async def server(tmp_path: Path, commands: Path | None) -> AsyncIterator[str]:
    """Run a whole server without an Envoy; yield the URL where rollouts are asked for."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "shop.yaml").write_text(json.dumps(configuration(["127.0.0.1:9001"])))
    settings = Settings(tmp_path / "configs", tmp_path / "data", "127.0.0.1:0", "127.0.0.1:0", commands=commands)
    listening: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(serve(settings, listening.set_result))
        async with asyncio.timeout(LIMIT_S):
            yield f"http://{(await listening).admin}/v1/services/checkout/rollouts"
        task.cancel()


@pytest.mark.parametrize(
    ("commands", "status", "told"),
    [
        (None, 400, "checks[0].command: this server runs no commands; start it with --commands DIR"),
        ("commands", 201, ""),
        ("empty", 400, "checks[0].command: 'smoke' is no file in the folder"),
    ],
)
async def test_a_strategy_with_commands_needs_a_server_that_has_them(
    tmp_path: Path, commands: str | None, status: int, told: str
) -> None:
    (tmp_path / "commands").mkdir()
    (tmp_path / "empty").mkdir()
    script(tmp_path / "commands", "smoke", "exit 0")
    wish = {"version": "v2", "endpoints": ["127.0.0.1:9002"], "strategy": {"checks": [{"command": ["smoke"]}]}}
    folder = None if commands is None else tmp_path / commands
    async with server(tmp_path, folder) as url, open_session() as http, http.post(url, json=wish) as answer:
        assert answer.status == status
        assert told in (await answer.json(content_type=None)).get("detail", "")
