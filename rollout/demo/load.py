"""A load client which never retries: every request counts exactly once, with its status and who made the answer."""

import argparse
import asyncio
import json
import math
import random
import select
import string
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import cycle

from rollout.errors import InvalidSpec

PROXY = "proxy"
"""Who made an answer that has no backend's mark."""

LONGEST_PAUSE_S = 0.05
BUCKET_GROWTH = 1.05
SECONDS_KEPT = 600
DROPS_KEPT = 20
HEX_DIGITS = frozenset(string.hexdigits)


class Fault(StrEnum):
    """Why a request got no full answer."""

    CONNECT = "connect"
    CLOSED = "closed"
    RESET = "reset"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    MALFORMED = "malformed"


class MalformedError(Exception):
    """The peer's bytes are no HTTP/1.1 answer."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a proxy listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read HOST:PORT; InvalidSpec if it is something else."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InvalidSpec(f"target '{text}': give HOST:PORT, such as 127.0.0.1:10000")
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PathShare:
    """One kind of request and its share of all (relative: shares need not sum to 1)."""

    path: str
    share: float


def mix(
    *, slow_share: float = 0.04, stream_share: float = 0.02, slow_ms: int = 800, stream_ms: int = 1500
) -> tuple[PathShare, ...]:
    """Mostly fast requests, some slow ones, some streams."""
    return (
        PathShare("/fast", 1 - slow_share - stream_share),
        PathShare(f"/slow?ms={slow_ms}", slow_share),
        PathShare(f"/stream?ms={stream_ms}", stream_share),
    )


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to send; connections are counted per target, and the upper limit is reached only while answers are slow."""

    targets: tuple[Target, ...]
    rate_per_s: float = 300.0
    paths: tuple[PathShare, ...] = mix()
    connections: int = 8
    connections_max: int = 256
    timeout_s: float = 15.0

    def __post_init__(self) -> None:
        if not self.targets or not self.rate_per_s > 0:
            raise InvalidSpec(f"load on {len(self.targets)} targets at {self.rate_per_s}/s: both must be above 0")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended.

    `at_s` is the Unix time at which the request was due, and `seconds` counts from then, so a client or a proxy that
    falls behind shows in the latency. Without a head of an answer `status` is None; `backend` is the mark of the
    version, None when a proxy or nobody answered.
    """

    at_s: float
    target: str
    path: str
    status: int | None
    backend: str | None
    seconds: float
    fault: Fault | None

    @property
    def dropped(self) -> bool:
        """No full answer, or a refusal which no backend made."""
        return self.fault is not None or self.status is None or (self.backend is None and self.status // 100 != 2)

    @property
    def bad(self) -> bool:
        """A full answer of a backend which says that it failed."""
        return not self.dropped and self.status is not None and self.status >= 500


@dataclass(frozen=True, slots=True)
class Head:
    """What the client needs of an answer's head; without length and chunks the body ends with the connection."""

    status: int
    backend: str | None
    content_length: int | None
    chunked: bool
    closes: bool


def parse_head(text: bytes) -> Head:
    """Read status line and header fields, up to and with the empty line."""
    first, *lines = text.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    protocol, _, rest = first.partition(" ")
    if not protocol.startswith("HTTP/1.") or not rest[:3].isdecimal():
        raise MalformedError(f"status line {first!r}")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status, length = int(rest[:3]), fields.get("content-length")
    if length is not None and not length.isdecimal():
        raise MalformedError(f"content-length {length!r}")
    connection = fields.get("connection", "keep-alive" if protocol == "HTTP/1.1" else "close").lower()
    bodiless = status in (204, 304) or status < 200
    return Head(
        status=status,
        backend=fields.get("x-backend"),
        content_length=0 if bodiless else None if length is None else int(length),
        chunked=not bodiless and fields.get("transfer-encoding", "").lower().endswith("chunked"),
        closes="close" in connection,
    )


class Connection:
    """One keep-alive connection, with one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._file = writer.get_extra_info("socket").fileno()
        self.head: Head | None = None
        """The head of the latest answer, as soon as it is there."""

    def forget(self) -> None:
        """Leave the former answer behind, so that a fault is not told with its status."""
        self.head = None

    def is_open(self) -> bool:
        """Whether the next request may be sent here: the peer did not close it while it was idle.

        The kernel is asked too, for what it holds the event loop may not have read yet; on an idle connection
        anything to read is the end.
        """
        if self._writer.is_closing() or self._reader.at_eof():
            return False
        look = select.poll()
        look.register(self._file, select.POLLIN)
        return not look.poll(0)

    async def exchange(self, request: bytes) -> bool:
        """Send the request, read the whole answer into nothing; True if another request may follow."""
        self._writer.write(request)
        head = parse_head(await self._reader.readuntil(b"\r\n\r\n"))
        while head.status < 200:
            head = parse_head(await self._reader.readuntil(b"\r\n\r\n"))
        self.head = head
        if head.chunked:
            await self._read_chunks()
        elif head.content_length is not None:
            await self._reader.readexactly(head.content_length)
        else:
            await self._reader.read(-1)
            return False
        return not head.closes

    async def _read_chunks(self) -> None:
        while size := chunk_size(await self._reader.readuntil(b"\r\n")):
            await self._reader.readexactly(size + 2)
        while await self._reader.readuntil(b"\r\n") != b"\r\n":
            pass  # a trailer field

    def abort(self) -> None:
        """Close at once, with what may still be unsent."""
        self._writer.transport.abort()


def chunk_size(line: bytes) -> int:
    """Read a chunk's first line; what follows a semicolon is an extension."""
    digits = line.partition(b";")[0].strip().decode("latin-1")
    if not digits or not set(digits) <= HEX_DIGITS:
        raise MalformedError(f"chunk size {digits!r}")
    return int(digits, 16)


class Pool:
    """The connections to one target: it grows to `connections` first, and above only when all are busy."""

    def __init__(self, target: Target, connections: int, connections_max: int) -> None:
        self.target = target
        self.slots = asyncio.Semaphore(connections_max)
        self._connections = connections
        self._open_count = 0
        self._idle: deque[Connection] = deque()

    def take(self) -> Connection | None:
        """The connection that was idle longest, so that all are used in turn; None: open one."""
        if self._open_count < self._connections:
            return None
        while self._idle:
            connection = self._idle.popleft()
            if connection.is_open():
                connection.forget()
                return connection
            self.drop(connection)
        return None

    async def open(self) -> Connection:
        """Connect once more."""
        self._open_count += 1
        try:
            return Connection(*await asyncio.open_connection(self.target.host, self.target.port))
        except BaseException:
            self._open_count -= 1
            raise

    def give_back(self, connection: Connection) -> None:
        """The connection may be used again."""
        self._idle.append(connection)

    def drop(self, connection: Connection) -> None:
        """The connection is of no more use."""
        self._open_count -= 1
        connection.abort()

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self.drop(self._idle.popleft())


async def ask(pool: Pool, request: bytes, timeout_s: float) -> tuple[Head | None, Fault | None]:
    """One request and its answer, whatever comes of it; the time limit holds for waiting and connecting too."""
    connection, fault, reusable = None, None, False
    try:
        async with asyncio.timeout(timeout_s), pool.slots:
            connection = pool.take() or await pool.open()
            reusable = await connection.exchange(request)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, MalformedError) as error:
        fault = fault_of(error, connection)
    finally:
        if connection is not None:
            (pool.give_back if reusable else pool.drop)(connection)
    return (None if connection is None else connection.head), fault


def fault_of(error: Exception, connection: Connection | None) -> Fault:
    """Name what went wrong; TimeoutError is an OSError, so it comes first."""
    match error:
        case TimeoutError():
            return Fault.TIMEOUT
        case _ if connection is None:
            return Fault.CONNECT
        case asyncio.IncompleteReadError(partial=b"") if connection.head is None:
            return Fault.CLOSED
        case asyncio.IncompleteReadError():
            return Fault.TRUNCATED
        case OSError():
            return Fault.RESET
        case _:
            return Fault.MALFORMED


async def run_load(plan: LoadPlan, on_outcome: Callable[[Outcome], None], stop: asyncio.Event) -> None:
    """Send at the plan's rate, whether or not answers come, until `stop`; then finish what is in flight."""
    loop = asyncio.get_running_loop()
    unix_minus_loop_s = time.time() - loop.time()
    pools = [Pool(target, plan.connections, plan.connections_max) for target in plan.targets]
    requests = {part.path: request_bytes(part.path) for part in plan.paths}

    async def request(pool: Pool, path: str, due_s: float) -> None:
        head, fault = await ask(pool, requests[path], plan.timeout_s)
        status, backend = (None, None) if head is None else (head.status, head.backend)
        seconds = loop.time() - due_s
        on_outcome(Outcome(due_s + unix_minus_loop_s, str(pool.target), path, status, backend, seconds, fault))

    turns, paths, due_s = cycle(pools), endless_paths(plan.paths), loop.time()
    try:
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                while due_s <= loop.time():
                    group.create_task(request(next(turns), next(paths), due_s))
                    due_s += 1 / plan.rate_per_s
                await asyncio.sleep(min(due_s - loop.time(), LONGEST_PAUSE_S))
    finally:
        for pool in pools:
            pool.close()
        await asyncio.sleep(0)  # the loop closes aborted sockets in its next round


def request_bytes(path: str) -> bytes:
    """The whole request; keep-alive is HTTP/1.1's default."""
    return f"GET {path} HTTP/1.1\r\nhost: demo\r\nuser-agent: rollout-load\r\n\r\n".encode()


def endless_paths(parts: tuple[PathShare, ...]) -> Iterator[str]:
    """Paths by chance, each as often as its share says."""
    paths, shares = [part.path for part in parts], [part.share for part in parts]
    while True:
        yield from random.choices(paths, shares, k=256)


class Histogram:
    """How often each duration came, in buckets that grow by 5 %: a quantile is right within 2.5 %."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[math.floor(math.log(max(seconds, 1e-6), BUCKET_GROWTH))] += 1

    def quantile_s(self, quantile: float) -> float | None:
        """The duration which that share of all did not exceed; None if nothing was counted."""
        wanted, seen = quantile * self._counts.total(), 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return float(BUCKET_GROWTH ** (bucket + 0.5))
        return None


@dataclass(slots=True)
class Tally:
    """The sums of many outcomes: requests == full answers + faults.

    A refusal by a proxy is both an answer (made by PROXY) and a drop. Histograms hold full answers, by path without
    its query. `first_bad_at_s` is the Unix time at which a version's first bad answer had arrived.
    """

    requests: int = 0
    dropped: int = 0
    answers: Counter[tuple[int, str]] = field(default_factory=Counter)
    faults: Counter[Fault] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    first_bad_at_s: dict[str, float] = field(default_factory=dict)
    first_drops: list[Outcome] = field(default_factory=list)
    latency: dict[str, Histogram] = field(default_factory=dict)
    by_second: dict[int, Counter[str]] = field(default_factory=dict)
    """Unix second in which the requests were due -> version -> answers; the latest 600 such seconds."""

    def record(self, outcome: Outcome) -> None:
        """Add one outcome."""
        self.requests += 1
        if outcome.dropped:
            self.dropped += 1
            self.first_drops += [outcome] if len(self.first_drops) < DROPS_KEPT else []
        if outcome.fault is not None or outcome.status is None:
            self.faults[outcome.fault or Fault.CLOSED] += 1
            return
        self.answers[outcome.status, outcome.backend or PROXY] += 1
        self.latency.setdefault(outcome.path.partition("?")[0], Histogram()).add(outcome.seconds)
        if outcome.backend is not None:
            self._record_version(outcome, outcome.backend)

    def _record_version(self, outcome: Outcome, version: str) -> None:
        self.by_second.setdefault(int(outcome.at_s), Counter())[version] += 1
        if len(self.by_second) > SECONDS_KEPT:
            del self.by_second[min(self.by_second)]
        if outcome.bad:
            self.bad[version] += 1
            answered_at_s = outcome.at_s + outcome.seconds
            self.first_bad_at_s[version] = min(answered_at_s, self.first_bad_at_s.get(version, answered_at_s))

    def shares(self, *, since_s: float) -> Mapping[str, float]:
        """Each version's share of the backends' answers to requests due since then (Unix time); empty if none came."""
        versions: Counter[str] = Counter()
        for second, counts in self.by_second.items():
            if second >= int(since_s):
                versions.update(counts)
        return {version: count / versions.total() for version, count in sorted(versions.items())}

    def summary(self) -> Mapping[str, object]:
        """All sums, ready for JSON."""
        return {
            "requests": self.requests,
            "answers": [
                {"status": status, "made_by": made_by, "count": count}
                for (status, made_by), count in sorted(self.answers.items())
            ],
            "bad": dict(self.bad),
            "dropped": self.dropped,
            "faults": dict(self.faults),
            "first_drops": [describe(outcome) for outcome in self.first_drops],
            "latency_ms": {path: milliseconds(histogram) for path, histogram in sorted(self.latency.items())},
        }


def describe(outcome: Outcome) -> str:
    """One drop in words."""
    answer = f"{outcome.status} by {outcome.backend or PROXY}" if outcome.status else "no answer"
    fault = f", {outcome.fault}" if outcome.fault else ""
    return f"{outcome.at_s:.3f} {outcome.target} {outcome.path}: {answer}{fault} after {outcome.seconds:.3f} s"


def milliseconds(histogram: Histogram) -> Mapping[str, float]:
    """The quantiles that people ask for."""
    quantiles = {f"p{quantile * 100:g}": histogram.quantile_s(quantile) for quantile in (0.5, 0.9, 0.99, 0.999)}
    return {name: round(seconds * 1000, 2) for name, seconds in quantiles.items() if seconds is not None}


async def run_load_for(plan: LoadPlan, seconds: float) -> Tally:
    """Send for that long, wait for the last answers, and give the sums."""
    tally, stop = Tally(), asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stop.set)
    await run_load(plan, tally.record, stop)
    return tally


def report(tally: Tally) -> str:
    """The sums as a few lines for people."""
    answers = [f"  {count:8} x {status} by {made_by}" for (status, made_by), count in sorted(tally.answers.items())]
    faults = [f"  {count:8} x {fault}" for fault, count in sorted(tally.faults.items())]
    drops = [f"  {describe(outcome)}" for outcome in tally.first_drops]
    return "\n".join([f"requests {tally.requests}", *answers, *faults, f"dropped  {tally.dropped}", *drops])


def main() -> int:
    """Run a load as the command line says; 1 if anything was dropped."""
    parser = argparse.ArgumentParser(prog="python -m rollout.demo.load", description=__doc__)
    parser.add_argument("--target", action="append", required=True, metavar="HOST:PORT")
    parser.add_argument("--rate", type=float, default=300.0, help="requests per second, over all targets")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--slow-share", type=float, default=0.04)
    parser.add_argument("--stream-share", type=float, default=0.02)
    parser.add_argument("--connections", type=int, default=8, help="per target, opened first")
    parser.add_argument("--connections-max", type=int, default=256, help="per target, while answers are slow")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        targets = tuple(Target.parse(text) for text in arguments.target)
    except InvalidSpec as error:
        parser.error(str(error))
    plan = LoadPlan(
        targets=targets,
        rate_per_s=arguments.rate,
        paths=mix(slow_share=arguments.slow_share, stream_share=arguments.stream_share),
        connections=arguments.connections,
        connections_max=arguments.connections_max,
    )
    tally = asyncio.run(run_load_for(plan, arguments.seconds))
    sys.stdout.write(f"{json.dumps(tally.summary(), indent=2) if arguments.json else report(tally)}\n")
    return 1 if tally.dropped else 0


if __name__ == "__main__":
    sys.exit(main())
