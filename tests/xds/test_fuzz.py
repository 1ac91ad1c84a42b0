"""What no client should say: it ends its own stream at most, other clients hear nothing of it, and nothing is left."""

import asyncio
import gc
import logging
import random
import struct
import sys
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.fuzz import ANSWER, PUBLISH, RECONNECT, SAY, STEPS, WAIT, drive, head, said, seeds
from bench.http2 import END_HEADERS, FRAME_LIMIT, PREFACE, frame
from tests.xds.client import PROTOCOLS, Wire, assignment, cluster, served, shop
from tests.xds.port import LIMIT_S, METHOD, Client, Port, eventually, serving
from tests.xds.raw import DATA, HEADERS, PATHS, RST_STREAM, Frame, Raw
from tests.xds.test_edge_limits import memory_mib
from xds.cache import Cache
from xds.edge.call import STATUS_CHARACTERS
from xds.errors import InvalidRequest, Overloaded
from xds.limits import Limits, Rate
from xds.node import Peer
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, SECRETS, TYPES
from xds.session import ControlPlane, Session
from xds.snapshot import Snapshot
from xds.wire import bytes_field, text_field, varint

both = pytest.mark.parametrize("protocol", PROTOCOLS)
# The numbers of the fields that a request has.
VERSION, NODE, NAMES, TYPE, NONCE, FAULT, LEFT, HELD = "version", "node", "names", "type", "nonce", "fault", "left", "held"
FIELDS = {
    "sotw": {VERSION: 1, NODE: 2, NAMES: 3, TYPE: 4, NONCE: 5, FAULT: 6},
    "delta": {NODE: 1, TYPE: 2, NAMES: 3, LEFT: 4, HELD: 5, NONCE: 6, FAULT: 7},
}
ID, CLUSTER, METADATA = 1, 2, 3  # fields of a node
MIB = 2**20
WIDE = Limits(new_streams=Rate(per_s=100_000, burst=100_000), requests=Rate(per_s=100_000, burst=100_000))
PUSH_S = 2.0  # in which a push reaches those who are not to blame
ENDS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.PERMISSION_DENIED,
}
GREETING = frame(4, 0, 0, b"")
OPENING = {
    ":method": "POST",
    ":scheme": "http",
    ":path": PATHS["sotw"],
    ":authority": "xds",
    "te": "trailers",
    "content-type": "application/grpc",
}


# What is said


def request(protocol: str, **parts: bytes | str) -> bytes:
    """Encode a request by its fields, whatever is in them."""
    encoded = ((FIELDS[protocol][name], part.encode() if isinstance(part, str) else part) for name, part in parts.items())
    return b"".join(bytes_field(number, part) for number, part in encoded)


def many(protocol: str, field: str, parts: Iterator[bytes]) -> bytes:
    return b"".join(bytes_field(FIELDS[protocol][field], part) for part in parts)


def first(protocol: str, node: bytes = text_field(ID, "hostile"), url: str = ENDPOINTS.url) -> bytes:
    return request(protocol, node=node, type=url)


def member(name: str, value: bytes) -> bytes:
    """Encode an entry of a node's metadata."""
    return bytes_field(METADATA, bytes_field(1, text_field(1, name) + bytes_field(2, value)))


def number(value: float) -> bytes:
    """Encode a google.protobuf.Value."""
    return b"\x11" + struct.pack("<d", value)


def nested(depth: int) -> bytes:
    value = b""
    for _ in range(depth):
        value = bytes_field(6, bytes_field(1, value))
    return value


texts = st.one_of(
    st.sampled_from(["", "*", "a", "main", "service-000@v1", "key", "main/a", "edge-1", "1", "\0", "a\0b", "é" * 3_000]),
    st.text(max_size=10),
).map(str.encode) | st.binary(max_size=10)
urls = st.one_of(st.sampled_from([each.url for each in TYPES]).map(str.encode), texts)
varints = st.integers(0, 2**64 - 1).map(varint)


def fields(content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Draw fields of any number and any wire type, of lengths that lie, and of groups that do not end."""
    numbers = st.one_of(st.integers(0, 12), st.integers(0, 2**29))
    keys = st.tuples(numbers, st.integers(0, 7)).map(lambda pair: varint(pair[0] << 3 | pair[1]))
    right = st.tuples(numbers, content).map(lambda pair: bytes_field(*pair))
    wrong = st.tuples(keys, st.one_of(varints, content)).map(b"".join)
    return st.lists(st.one_of(right, right, wrong), max_size=4).map(b"".join)


anything = st.recursive(texts | varints, fields, max_leaves=8)


@st.composite
def nodes(draw: st.DrawFn) -> bytes:
    sound = text_field(ID, draw(st.sampled_from(["hostile", "other"])))
    value = draw(st.one_of(st.floats().map(number), st.integers(0, 60).map(nested), anything))
    return sound + draw(st.sampled_from([b"", member("a", value), draw(fields(anything))]))


@st.composite
def requests(draw: st.DrawFn, protocol: str) -> bytes:
    """Draw a request that has a form, and hostile values in it; some are cut off, or have a wrong byte."""
    parts = {
        NODE: st.lists(nodes(), max_size=2),
        TYPE: st.lists(urls, min_size=1, max_size=1),
        NAMES: st.lists(texts, max_size=4),
        NONCE: st.lists(texts, max_size=1),
        VERSION: st.lists(texts, max_size=1),
        LEFT: st.lists(texts, max_size=3),
        HELD: st.lists(st.tuples(texts, texts).map(lambda pair: bytes_field(1, pair[0]) + bytes_field(2, pair[1])), max_size=3),
        FAULT: st.lists(st.tuples(varints, texts).map(lambda pair: b"\x08" + pair[0] + bytes_field(2, pair[1])), max_size=1),
    }
    raw = b"".join(many(protocol, name, iter(draw(parts[name]))) for name in FIELDS[protocol])
    match draw(st.sampled_from(["whole", "whole", "cut", "wrong", "more"])):
        case "cut":
            return raw[: draw(st.integers(0, len(raw)))]
        case "wrong" if raw:
            at = draw(st.integers(0, len(raw) - 1))
            return raw[:at] + bytes((draw(st.integers(0, 255)),)) + raw[at + 1 :]
        case "more":
            return raw + draw(fields(anything))
        case _:
            return raw


def scripts(*steps: int) -> st.SearchStrategy[bytes]:
    """Draw scripts of these steps, in both protocols, aggregated and for a single type."""
    def script(protocol: str) -> st.SearchStrategy[bytes]:
        what = {step: st.just(b"") for step in range(STEPS)}
        what[SAY] = what[ANSWER] = st.one_of(requests(protocol), st.sampled_from(PROTOCOLS).flatmap(requests))
        what[PUBLISH] = what[WAIT] = st.binary(min_size=1, max_size=1)
        each = st.sampled_from(steps).flatmap(lambda step: st.builds(said, st.just(step), what[step], hasty=st.booleans()))
        only = st.sampled_from([0, 0, *range(len(TYPES) + 1)])
        heads = only.map(lambda number: head(protocol, number) + said(SAY, first(protocol, url="" if number else CLUSTERS.url)))
        return st.tuples(heads, st.lists(each, max_size=8).map(b"".join)).map(b"".join)

    return st.sampled_from(PROTOCOLS).flatmap(script)


# Below the wire


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_session_takes_any_bytes_or_refuses_them(script: bytes) -> None:
    drive(script)


@settings(max_examples=300)
@given(scripts(SAY, SAY, ANSWER, ANSWER, PUBLISH, WAIT, RECONNECT))
def test_session_takes_any_requests_or_refuses_them_and_leaves_nothing(script: bytes) -> None:
    drive(script)


@both
@settings(max_examples=100)
@given(script=scripts(SAY, ANSWER, WAIT, RECONNECT))
@example(script=next(seeds()))
def test_neighbour_hears_nothing_of_any_requests(protocol: str, script: bytes) -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    neighbour = Wire(cache, protocol, "neighbour")
    neighbour.connect(clusters=["a"])
    drive(script, cache)
    assert cache.members() == (neighbour.session,)
    if script != next(seeds()):  # that publishes
        assert (neighbour.said(), neighbour.wakes) == ([], 0)
    cache.publish(served(*shop("a", mark=1)))
    assert neighbour.said() == ["clusters a", "endpoints a"]
