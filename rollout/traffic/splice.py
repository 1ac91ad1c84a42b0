"""Canonical bytes of a message in pieces: where parts of it change, only these are encoded again."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any as Message

from rollout.traffic.places import Places
from xds import proto
from xds.wire import varint

BYTES_AFTER_TAG = {1: 8, 5: 4}  # by wire type, where it is always the same


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A part that is encoded as a whole, and the names that its bytes depend on."""

    message: Message
    places: Places
    names: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Hole:
    """Where a part goes.

    `around` has for each message on the way, from the innermost, the part's tag and the message's other bytes, before
    and after it.
    """

    around: tuple[tuple[bytes, bytes, bytes], ...]
    part: "Leaf | Splice"


@dataclass(frozen=True, slots=True, eq=False)
class Splice:
    """A message in pieces; some are holes with what fills them now. `users` has the holes that depend on each name."""

    pieces: tuple[bytes, ...]
    holes: Mapping[int, Hole]
    users: Mapping[str, tuple[int, ...]]

    def body(self) -> bytes:
        return b"".join(self.pieces)

    def filled(self, changed: Collection[str], encode: Callable[[Leaf], bytes]) -> "Splice":
        """Return the message with everything encoded again that depends on a changed name."""
        pieces, parts = list(self.pieces), {}
        for index in self._users(changed):
            hole = self.holes[index]
            if isinstance(hole.part, Splice):
                part = hole.part.filled(changed, encode)
                parts[index] = Hole(hole.around, part)
                body = part.body()
            else:
                body = encode(hole.part)
            for tag, before, after in hole.around:
                body = b"".join((before, tag, varint(len(body)), body, after))
            pieces[index] = body
        return Splice(tuple(pieces), {**self.holes, **parts} if parts else self.holes, self.users)

    def _users(self, names: Collection[str]) -> Iterable[int]:
        if len(names) == 1:
            return self.users.get(next(iter(names)), ())
        return {index for name in names for index in self.users.get(name, ())}


@dataclass(frozen=True, slots=True)
class Knife:
    """Takes messages apart. `names` tells what a wanted part depends on; parts that are equal become one leaf."""

    names: Callable[[Message, Places], frozenset[str]]
    _leaves: dict[bytes, Leaf] = field(default_factory=dict)

    def taken_apart(self, message: Message, places: Places) -> Splice:
        """Return a message with holes, still empty, in its wanted places."""
        hole = self._hole(message, places)
        if isinstance(hole.part, Splice) and not hole.around:
            return hole.part
        return _splice([b""], {0: hole})

    def _hole(self, message: Message, places: Places) -> Hole:
        if places.here or message.DESCRIPTOR.full_name == proto.ANY or _in_maps(message, places):
            return Hole((), self._leaf(message, places))
        body = proto.canonical(message)
        pieces: list[bytes] = []
        holes: dict[int, Hole] = {}
        done = 0
        for start, end, part, below in _wanted(message, body, places):
            inner = self._hole(part, below)
            tag = body[start : start + _varint_length(body, start)]
            if len(places.below) == 1:
                return Hole((*inner.around, (tag, body[:start], body[end:])), inner.part)
            holes[len(pieces) + 1] = Hole((*inner.around, (tag, b"", b"")), inner.part)
            pieces += (body[done:start], b"")
            done = end
        return Hole((), _splice([*pieces, body[done:]], holes))

    def _leaf(self, message: Message, places: Places) -> Leaf:
        if places.below:
            return Leaf(message, places, self.names(message, places))
        body = proto.canonical(message)
        if body not in self._leaves:
            self._leaves[body] = Leaf(message, places, self.names(message, places))
        return self._leaves[body]


def _splice(pieces: list[bytes], holes: Mapping[int, Hole]) -> Splice:
    users: dict[str, list[int]] = {}
    for index, hole in holes.items():
        for name in hole.part.names if isinstance(hole.part, Leaf) else hole.part.users:
            users.setdefault(name, []).append(index)
    return Splice(tuple(pieces), holes, {name: tuple(each) for name, each in users.items()})


def _in_maps(message: Message, places: Places) -> bool:
    known = message.DESCRIPTOR.fields_by_name
    return any(proto.entry_of(known[name]) is not None for name in {name for name, _, _ in places.below})


def _wanted(message: Message, body: bytes, places: Places) -> Iterator[tuple[int, int, Message, Places]]:
    """Yield where in a message's bytes each part below its places starts and ends, the part, and the part's places."""
    known = message.DESCRIPTOR.fields_by_name
    below = {(known[name].number, key or 0): (name, key, part) for name, key, part in places.below}
    seen: Counter[int] = Counter()
    for number, start, end in fields(body):
        found = below.get((number, seen[number]))
        seen[number] += 1
        if found is not None:
            name, key, part = found
            value = getattr(message, name)
            yield start, end, value if key is None else value[key], part


def fields(body: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each field in a message's bytes."""
    position = 0
    while position < len(body):
        start = position
        tag, position = _read_varint(body, position)
        kind = tag & 7
        if kind == 2:
            length, position = _read_varint(body, position)
            position += length
        elif kind == 0:
            position += _varint_length(body, position)
        else:
            position += BYTES_AFTER_TAG[kind]
        yield tag >> 3, start, position


def _read_varint(body: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _varint_length(body: bytes, position: int) -> int:
    return _read_varint(body, position)[1] - position
