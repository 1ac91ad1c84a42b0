"""Throws what no client should say at sessions, guided by the lines that it reaches; no I/O is between them.

python bench/fuzz.py [--seconds 3600] [--corpus DIR] [--findings DIR] | --replay FILE

An input is the script of one client, see `drive`; the first ones are those of a client that does all right. Anything
but an XdsError is a finding, and so is a session that talks without end, or that leaves something behind: the input is
written to a file, and the exit code is 1. Needs atheris, which only this program uses: uv pip install 'atheris>=3.0'
"""

import argparse
import contextlib
import dataclasses
import gc
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from types import FunctionType

from bench.served import Change, Size, changed, resources
from xds import proto
from xds.access import Client, Rules
from xds.cache import Cache, Wanted
from xds.errors import XdsError
from xds.node import Peer
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, SECRETS, TYPES, VIRTUAL_HOSTS, Resource, ResourceType
from xds.resources import resource as make_resource
from xds.session import DIALECTS, ControlPlane, Session
from xds.snapshot import snapshot
from xds.status import Query, Report
from xds.stream import Response
from xds.wire import text_field

try:
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]  # installed by hand
except ImportError:  # only fuzzing needs it, replaying and the tests do not
    atheris = None

PROTOCOLS = tuple(DIALECTS)
WORDS = {
    "sotw": ("DiscoveryRequest", "DiscoveryResponse", "resource_names"),
    "delta": ("DeltaDiscoveryRequest", "DeltaDiscoveryResponse", "resource_names_subscribe"),
}
SERVICE = "envoy.service.discovery.v3"
# What a step of a script does, by its first byte modulo their number; with HASTY in it nothing is read behind it.
SAY, ANSWER, PUBLISH, WAIT, RECONNECT = range(5)
STEPS, HASTY = 5, 0x80
RESPONSES = 64  # at once; a session that has more to say never ends
INPUT_BYTES = 16_384
INPUT_S = 10  # of CPU, until an input counts as a hang
MEMORY_MIB = 2_048
TTL_S = 3.0
ANYBODY = Rules([Client("*", ("*",), ("*",), ("*",))])
PEER = Peer("ipv4:127.0.0.1:1", frozenset({"spiffe://corp/edge/1"}))
QUIET = ("NEW", "REDUCE", "RELOAD")
DICTIONARY = ('"', "######")  # libFuzzer's words for other fuzzers
GOING_ON = re.compile(r"#\d+\s+(?P<what>\w+)\s+cov: (?P<lines>\d+)")


class Finding(Exception):
    """A rule that a session broke."""


def _worlds() -> tuple[tuple[Resource, ...], ...]:
    """Return what is served one after the other: of all types that have rules of their own, some with a TTL."""
    small, large = Size(2, 2), Size(4, 1)
    secret = make_resource(SECRETS, proto.parse(SECRETS.message, {"name": "key"}))
    hosts = [
        make_resource(VIRTUAL_HOSTS, proto.parse(VIRTUAL_HOSTS.message, {"name": f"main/{name}", "domains": [name]}))
        for name in ("a", "b")
    ]
    weights = changed(small, Change.WEIGHTS, 1)
    expiring = tuple(dataclasses.replace(each, ttl_s=TTL_S) for each in resources(small))
    return (
        (*resources(small), secret, *hosts),
        (*resources(large), secret, hosts[0]),
        (*(each for each in resources(small) if each.name != weights.name), weights, hosts[1]),
        (*expiring, *hosts),
    )


WORLDS = _worlds()


class Fire:
    """One client of a server, and what the server must keep to whatever that says.

    The head of its script picks the protocol, and a type when the stream is for that type only.
    """

    def __init__(self, head: int, cache: Cache) -> None:
        self.protocol = PROTOCOLS[head % 2]
        only = head // 2 % (len(TYPES) + 1)
        self._only = TYPES[only - 1] if only else None
        self._cache = cache
        self._plane = ControlPlane(cache, access=ANYBODY)
        self._now_s = 0.0
        self._reads = proto.message_class(f"{SERVICE}.{WORDS[self.protocol][1]}").FromString
        self.connect()

    def connect(self) -> None:
        self._session = Session(self._plane, self.protocol, PEER, lambda: None, self._only)
        self._nonces: set[str] = set()
        self._last: Response | None = None

    def receive(self, raw: bytes) -> None:
        """Have it take a request; one that is refused ends its stream, as an edge does."""
        try:
            self._session.receive(raw, self._now_s)
        except XdsError:
            self.close()
            self.connect()

    def answer(self, raw: bytes) -> None:
        """Have it take a request which answers the last response, whatever else it says."""
        last = self._last
        if last is None:
            self.receive(raw)
        elif self.protocol == "sotw":
            self.receive(raw + text_field(1, last.version) + text_field(4, last.type.url) + text_field(5, last.nonce))
        else:
            self.receive(raw + text_field(2, last.type.url) + text_field(6, last.nonce))

    def publish(self, number: int) -> None:
        self._cache.publish(snapshot(WORLDS[number % len(WORLDS)]))

    def wait(self, tenths: int) -> None:
        self._now_s += tenths / 10

    def drain(self) -> None:
        """Read all that there is to read now."""
        for _ in range(RESPONSES):
            response = self._session.respond(self._now_s)
            if response is None:
                return
            self._check(response)
        raise Finding("the session talks without end")

    def _check(self, response: Response) -> None:
        message = self._reads(response.body)
        if message.type_url != response.type.url or message.nonce != response.nonce or response.nonce in self._nonces:
            raise Finding(f"{response.type} is answered by {message.type_url} with the nonce {message.nonce!r}")
        if self._only not in (None, response.type):
            raise Finding(f"a stream of {self._only} got {response.type}")
        if len(set(response.names)) != len(response.names):
            raise Finding(f"names stand twice in a response of {response.type}")
        self._nonces.add(response.nonce)
        self._last = response

    def look(self) -> None:
        """See what others see of it."""
        self._cache.connected()
        self._cache.needing(CLUSTERS, "service-000@v1")
        if self._session in self._cache.members():
            self._session.wake_at_s(self._now_s)
            self._session.lag(Wanted(CLUSTERS, "service-000@v1", None))
        query = Query(contents=True)
        for client in Report(self._cache, query, 0.0).clients():
            proto.message_class("envoy.service.status.v3.ClientConfig").FromString(b"".join(client))

    def close(self) -> None:
        """End its stream, twice; nothing of it may be left."""
        self._session.close(self._now_s)
        self._session.close(self._now_s)
        if self._session in self._cache.members() or self._session.respond(self._now_s) is not None:
            raise Finding("a closed session is still there")


def drive(script: bytes, cache: Cache | None = None) -> None:
    """Run the script of one client: its head, then steps; by itself, or beside the clients of a cache.

    SAY and ANSWER are followed by a length in two bytes and a message, PUBLISH and WAIT by a byte.
    """
    if cache is None:
        cache = Cache()
        cache.publish(snapshot(WORLDS[0]))
    fire = Fire(script[0] if script else 0, cache)
    for step, hasty, what in _steps(script[1:]):
        match step:
            case 0:
                fire.receive(what)
            case 1:
                fire.answer(what)
            case 2:
                fire.publish(what[0] if what else 0)
            case 3:
                fire.wait(what[0] if what else 0)
            case _:
                fire.close()
                fire.connect()
        if not hasty:
            fire.drain()
    fire.drain()
    fire.look()
    fire.close()


def _steps(script: bytes) -> Iterator[tuple[int, bool, bytes]]:
    at = 0
    while at < len(script):
        hasty, step = bool(script[at] & HASTY), script[at] % HASTY % STEPS
        at += 1
        size = 0
        if step in (SAY, ANSWER):
            size = int.from_bytes(script[at : at + 2], "big")
            at += 2
        elif step in (PUBLISH, WAIT):
            size = 1
        yield step, hasty, script[at : at + size]
        at += size


def said(step: int, what: bytes, *, hasty: bool = False) -> bytes:
    """Return one step of a script."""
    size = len(what).to_bytes(2, "big") if step in (SAY, ANSWER) else b""
    return bytes((step | (HASTY if hasty else 0),)) + size + what


def head(protocol: str, only: int = 0) -> bytes:
    return bytes((PROTOCOLS.index(protocol) + 2 * only,))


def encoded(protocol: str, words: Mapping[str, object]) -> bytes:
    return proto.canonical(proto.parse(f"{SERVICE}.{WORDS[protocol][0]}", words))


NODE = {
    "id": "edge-1",
    "cluster": "edge",
    "locality": {"region": "eu", "zone": "eu-1"},
    "metadata": {"rollout.admin": "127.0.0.1:9902", "deep": {"list": [1, True, None, {"a": "b"}]}},
    "user_agent_build_version": {"version": {"major_number": 1, "minor_number": 40}},
    "client_features": ["xds.config.supports-resource-ttl"],
    "extensions": [{"name": "envoy.filters.http.router", "category": "envoy.filters.http"}],
}
ASKED = {
    CLUSTERS: (),
    ENDPOINTS: ("service-000@v1", "service-000@v2"),
    LISTENERS: (),
    ROUTES: ("main", "none"),
    SECRETS: ("key",),
    VIRTUAL_HOSTS: ("main/a", "main/none"),
}


def seeds() -> Iterator[bytes]:
    """Yield scripts of clients that do all right, or refuse something, or come back."""
    for protocol, aggregated in product(PROTOCOLS, (True, False)):
        if aggregated:
            yield head(protocol) + _life(protocol, tuple(ASKED), NODE)
        else:
            for type_ in ASKED:
                yield head(protocol, 1 + TYPES.index(type_)) + _life(protocol, (type_,), NODE)


def _life(protocol: str, types: tuple[ResourceType, ...], node: Mapping[str, object]) -> bytes:
    names = WORDS[protocol][2]
    refusal = {"error_detail": {"code": 13, "message": "Error adding/updating cluster(s) service-000@v1: no good"}}
    held = {"initial_resource_versions": {"service-000@v1": "0", "main": ""}} if protocol == "delta" else {}
    left = {"resource_names_unsubscribe": ["service-000@v1", "*"]} if protocol == "delta" else {}
    asking = [{"type_url": type_.url, names: list(ASKED[type_])} for type_ in types]
    answers = [said(ANSWER, encoded(protocol, {names: list(ASKED[type_])})) for type_ in types]
    again = [{**words, **held, "response_nonce": "7"} for words in asking]
    asked = [said(SAY, encoded(protocol, {**words, "node": node})) for words in asking]
    steps = [
        *(x for pair in zip(asked, answers, strict=True) for x in pair),
        said(PUBLISH, b"\1"),
        said(ANSWER, encoded(protocol, {**asking[0], **refusal})),
        *answers,
        said(WAIT, b"\x1e"),
        said(PUBLISH, b"\3"),
        said(RECONNECT, b""),
        *(said(SAY, encoded(protocol, {**words, "node": node}), hasty=True) for words in again),
        said(WAIT, b"\x1e"),
        said(SAY, encoded(protocol, {**asking[-1], **left})),
        said(PUBLISH, b"\2"),
    ]
    return b"".join(steps)


def _instrument() -> int:
    """Have everything in xds report the lines that it reaches; return how many functions that are."""
    functions = [each for each in gc.get_objects() if isinstance(each, FunctionType) and _ours(each)]
    for each in functions:
        atheris.instrument_func(each)
    return len(functions)


def _ours(function: FunctionType) -> bool:
    return str(function.__module__).startswith("xds.") and function.__code__.co_filename.endswith(".py")


def _fuzz(seconds: int, corpus: Path, findings: Path) -> None:
    """Fuzz in this process, until it is time or something is found; never returns."""
    functions = _instrument()
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    print(f"{functions} functions of xds are instrumented", file=sys.stderr)
    flags = {
        "max_total_time": seconds,
        "max_len": INPUT_BYTES,
        "timeout": INPUT_S,
        "rss_limit_mb": MEMORY_MIB,
        "artifact_prefix": f"{findings}/",
        "print_final_stats": 1,
    }
    atheris.Setup([sys.argv[0], *(f"-{name}={value}" for name, value in flags.items()), str(corpus)], drive)
    atheris.Fuzz()


def _watch(command: list[str]) -> int:
    """Run the fuzzing, which ends its process as it likes; print how it goes on and its figures, return its code."""
    lines = [0]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stderr is not None
        for text in process.stderr:
            found = GOING_ON.match(text)
            if found:
                lines.append(int(found["lines"]))
            if (found and found["what"] not in QUIET) or not (found or text.startswith(DICTIONARY)):
                print(text, end="", flush=True)
    grown = lines[-1] - next(filter(None, lines), 0)
    print(f"coverage: {lines[-1]} points, {grown} of them new; findings: {int(process.returncode != 0)}")
    return 1 if process.returncode else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--corpus", type=Path, help="keep the inputs that reach something here, and begin with them")
    parser.add_argument("--findings", type=Path, default=Path(), help="where inputs are written that break something")
    parser.add_argument("--replay", type=Path, help="run this input, without atheris")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.replay:
        drive(wanted.replay.read_bytes())
        return 0
    if atheris is None:
        print("atheris is not installed; install it with: uv pip install 'atheris>=3.0'", file=sys.stderr)
        return 2
    if wanted.inside:
        _fuzz(wanted.seconds, wanted.corpus, wanted.findings)
    with contextlib.ExitStack() as stack:
        corpus = wanted.corpus or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        corpus.mkdir(parents=True, exist_ok=True)
        wanted.findings.mkdir(parents=True, exist_ok=True)
        options = ["--seconds", str(wanted.seconds), "--corpus", str(corpus), "--findings", str(wanted.findings)]
        return _watch([sys.executable, "-m", "bench.fuzz", "--inside", *options])


if __name__ == "__main__":
    sys.exit(main())
