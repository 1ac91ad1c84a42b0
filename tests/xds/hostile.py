"""What no client should say: requests with any values in their fields, and bytes that are none."""

import struct
from collections.abc import Iterator

from hypothesis import strategies as st

from bench.fuzz import ANSWER, PUBLISH, SAY, STEPS, WAIT, head, said
from tests.xds.client import PROTOCOLS
from xds.resources import CLUSTERS, ENDPOINTS, TYPES
from xds.wire import bytes_field, text_field, varint

# The numbers of the fields that a request has.
VERSION, NODE, NAMES, TYPE, NONCE, FAULT, LEFT, HELD = (
    "version",
    "node",
    "names",
    "type",
    "nonce",
    "fault",
    "left",
    "held",
)
FIELDS = {
    "sotw": {VERSION: 1, NODE: 2, NAMES: 3, TYPE: 4, NONCE: 5, FAULT: 6},
    "delta": {NODE: 1, TYPE: 2, NAMES: 3, LEFT: 4, HELD: 5, NONCE: 6, FAULT: 7},
}
ID, CLUSTER, METADATA = 1, 2, 3  # fields of a node
MIB = 2**20


def request(protocol: str, **parts: bytes | str) -> bytes:
    """Encode a request by its fields, whatever is in them."""
    encoded = (
        (FIELDS[protocol][name], part.encode() if isinstance(part, str) else part) for name, part in parts.items()
    )
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
    st.sampled_from(
        ["", "*", "a", "main", "service-000@v1", "key", "main/a", "edge-1", "1", "\0", "a\0b", "é" * 3_000]
    ),
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
        HELD: st.lists(
            st.tuples(texts, texts).map(lambda pair: bytes_field(1, pair[0]) + bytes_field(2, pair[1])), max_size=3
        ),
        FAULT: st.lists(
            st.tuples(varints, texts).map(lambda pair: b"\x08" + pair[0] + bytes_field(2, pair[1])), max_size=1
        ),
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
        each = st.sampled_from(steps).flatmap(
            lambda step: st.builds(said, st.just(step), what[step], hasty=st.booleans())
        )
        only = st.sampled_from([0, 0, *range(len(TYPES) + 1)])
        heads = only.map(
            lambda number: head(protocol, number) + said(SAY, first(protocol, url="" if number else CLUSTERS.url))
        )
        return st.tuples(heads, st.lists(each, max_size=8).map(b"".join)).map(b"".join)

    return st.sampled_from(PROTOCOLS).flatmap(script)


def numbered(count: int, kind: str = "name") -> Iterator[bytes]:
    return (f"{kind}-{number}".encode() for number in range(count))


def held_names(count: int) -> Iterator[bytes]:
    return (text_field(1, f"name-{number}") + text_field(2, "v") for number in range(count))


BAD_NODES = {
    "node.id is empty": b"",
    "node.id has 257 characters": text_field(ID, "x" * 257),
    "node.id is 'a.x00b'; characters that cannot be printed": text_field(ID, "a\0b"),
    "node.cluster has 257 characters": text_field(ID, "a") + text_field(CLUSTER, "x" * 257),
    "node.cluster is 'a.nb'": text_field(ID, "a") + text_field(CLUSTER, "a\nb"),
    "node.locality.zone is": text_field(ID, "a") + bytes_field(4, text_field(2, "\x1b[31m")),
    "node.metadata has [0-9]+ bytes; at most": text_field(ID, "a") + member("a", bytes_field(3, b"x" * MIB)),
    "node.metadata is no JSON.*NaN": text_field(ID, "a") + member("a", number(float("nan"))),
    "node.metadata is no JSON.*Infinity": text_field(ID, "a") + member("a", number(float("-inf"))),
    "no discovery request": text_field(ID, "a") + member("a", nested(100)),
}
