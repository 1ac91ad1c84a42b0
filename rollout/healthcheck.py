"""Asks backends whether they are healthy, as the control plane itself reaches them: HTTP, gRPC health, TCP."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from yarl import URL

from rollout.health import Probed, Ward, probed
from rollout.probe import ProbeSpec

TICK_S = 0.05
AT_ONCE = 50  # probes of backends that answered last time
DOUBTFUL_AT_ONCE = 50  # of all others, so that backends that hang keep nobody waiting
STARTS_APART_S = 0.005  # so that a thousand backends are not all asked in the same moment
ANSWER_LIMIT = 64 * 1024  # of an HTTP answer; what is longer is healthy all the same, but not read
MESSAGE_LIMIT = 16 * 1024
WHY_CHARACTERS = 200
_SERVING = health_pb2.HealthCheckResponse.SERVING
# Each probe connects anew, so what an earlier one has met must not be remembered; and no proxy stands between.
_CHANNEL = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
)


@dataclass(slots=True)
class _Patient:
    """One backend: when it is probed next, what is known, and the task that probes it, None while none does."""

    address: str
    spec: ProbeSpec
    due_s: float
    known: Probed = field(default_factory=Probed)
    task: asyncio.Task[None] | None = None


_Key = tuple[str, str, str]


class HealthChecker:
    """Each probe is a task of its own with a limit, so a backend that hangs delays no other.

    `wards` says who is probed now; who is no more is forgotten. `clock` is the engine's.
    """

    def __init__(
        self, wards: Callable[[], Iterable[Ward]], clock: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self._wards = wards
        self._clock = clock
        self._changed = changed
        self._patients: dict[_Key, _Patient] = {}
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._doubtful_at_once = asyncio.Semaphore(DOUBTFUL_AT_ONCE)

    async def run(self) -> None:
        """Until cancelled."""
        async with _session() as session, asyncio.TaskGroup() as group:
            while True:
                self._follow()
                for patient in self._due():
                    patient.task = group.create_task(self._probe(patient, session), name=f"probe {patient.address}")
                await asyncio.sleep(TICK_S)

    def probed(self, service: str, version: str) -> Mapping[str, Probed]:
        """Return what is known of a version's backends, by address; none that are not probed."""
        mine = (item for item in self._patients.items() if item[0][:2] == (service, version))
        return {patient.address: patient.known for _, patient in mine}

    def _follow(self) -> None:
        """End what is no longer wanted, and begin what is: each a little later than the one before."""
        wards = tuple(self._wards())
        wanted = {(each.service, each.version, address): each.spec for each in wards for address in each.addresses}
        for key, patient in tuple(self._patients.items()):
            if wanted.get(key) != patient.spec:
                del self._patients[key]
                if patient.task is not None:
                    patient.task.cancel()
        new = [key for key in wanted if key not in self._patients]
        now_s = self._clock()
        for number, key in enumerate(new):
            spec = wanted[key]
            apart_s = min(STARTS_APART_S, spec.interval.total_seconds() / len(new))
            self._patients[key] = _Patient(key[2], spec, now_s + number * apart_s)

    def _due(self) -> list[_Patient]:
        now_s = self._clock()
        due = [each for each in self._patients.values() if each.task is None and each.due_s <= now_s]
        for patient in due:
            # What comes too late is not made up for.
            patient.due_s = max(patient.due_s, now_s - TICK_S) + patient.spec.interval.total_seconds()
        return due

    async def _probe(self, patient: _Patient, session: aiohttp.ClientSession) -> None:
        before = patient.known
        lane = self._doubtful_at_once if before.why or not before.streak else self._at_once
        async with lane:
            why = await probe(patient.spec, patient.address, session)
        patient.known = probed(before, why[:WHY_CHARACTERS], self._clock(), patient.spec)
        patient.task = None
        if patient.known.healthy is not before.healthy:
            self._changed()


async def probe(spec: ProbeSpec, address: str, session: aiohttp.ClientSession) -> str:
    """Ask one backend once; return why it is not healthy, "" when it is."""
    host, _, port = address.rpartition(":")
    target = f"{host}:{spec.port or port}"
    limit_s = spec.timeout.total_seconds()
    try:
        async with asyncio.timeout(limit_s):
            if spec.http is not None:
                return await _http(session, target, spec)
            if spec.grpc is not None:
                return await _grpc(target, spec.grpc)
            return await _tcp(target)
    except TimeoutError:
        return f"no answer within {limit_s:g} s"
    except OSError as error:
        return _words(error)
    except Exception as error:  # noqa: BLE001 - whatever a backend can make a client raise, it is not healthy
        return f"no answer that can be read: {type(error).__name__}"


@asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, auto_decompress=False) as session:
        yield session


async def _http(session: aiohttp.ClientSession, target: str, spec: ProbeSpec) -> str:
    url = URL(f"http://{target}{spec.http}")
    headers = {"User-Agent": "rollout-probe", **({"Host": spec.host} if spec.host else {})}
    try:
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            left = ANSWER_LIMIT
            async for chunk in response.content.iter_any():
                left -= len(chunk)
                if left < 0:
                    break
            return "" if 200 <= response.status < 300 else f"HTTP {response.status} from {spec.http}"
    except aiohttp.ClientConnectorError as error:
        return _words(error.os_error)
    except aiohttp.ServerDisconnectedError:
        return "it closed the connection without an answer"


async def _grpc(target: str, service: str) -> str:
    async with grpc.aio.insecure_channel(target, options=_CHANNEL) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
        except grpc.aio.AioRpcError as error:
            return f"gRPC {error.code().name}: {error.details()}"
    if answer.status == _SERVING:
        return ""
    words = health_pb2.HealthCheckResponse.ServingStatus.keys()
    return f"it says {words[answer.status] if answer.status < len(words) else answer.status}"


async def _tcp(target: str) -> str:
    host, _, port = target.rpartition(":")
    _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.transport.abort()
    return ""


def _words(error: OSError) -> str:
    """What the system says; asyncio's own text has the address."""
    if error.errno == errno.ECONNREFUSED:
        return "connection refused"
    known = error.errno is not None and error.errno > 0
    return os.strerror(error.errno or 0) if known else str(error) or type(error).__name__
