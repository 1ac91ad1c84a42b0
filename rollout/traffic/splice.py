"""Canonical bytes of a message in pieces: where parts of it change, only these are encoded again."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any as Message
from typing import Protocol

from rollout.traffic.places import Places
from xds import proto
from xds.wire import varint

BYTES_AFTER_TAG = {1: 8, 5: 4}  # by wire type, where it is always the same


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A part that is encoded as a whole, and the names that its bytes depend on.

    `above` is the message around it that it inherits from, None without one.
    """

    message: Message
    places: Places
    names: frozenset[str]
    above: Message | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Hole:
    """Where a part goes.

    `around` has for each message on the way, from the innermost, the part's tag and the message's other bytes, before
    and after it. What is `grafted` is among these bytes.
    """

    around: tuple[tuple[bytes, bytes, bytes], ...]
    part: "Leaf | Splice | Graft"
    grafted: tuple["Grafted", ...] = ()

    @property
    def users(self) -> frozenset[str]:
        own = self.part.names if isinstance(self.part, Leaf) else self.part.users
        return frozenset(own).union(*(each.graft.users for each in self.grafted))

    def filled(self, changed: Collection[str], maker: "Maker") -> tuple[bytes, "Hole"]:
        """Return what is there now; and the hole, which is the same if it holds nothing else that has changed."""
        hole = self
        if isinstance(self.part, Leaf):
            body = maker.encoded(self.part)
        else:
            part = self.part.filled(changed, maker)
            body = part.body()
            hole = self if part is self.part else replace(self, part=part)
        for each in self.grafted:
            if not each.graft.users.isdisjoint(changed):
                hole = hole.regrafted(each, changed, maker)
        for tag, before, after in hole.around:
            body = b"".join((before, tag, varint(len(body)), body, after))
        return body, hole

    def regrafted(self, old: "Grafted", changed: Collection[str], maker: "Maker") -> "Hole":
        """Return the hole with this graft as it is now."""
        new = replace(old, graft=old.graft.filled(changed, maker))
        level = list(self.around[old.level])
        bare = level[old.field]
        end = old.at + len(old.graft.body())
        level[old.field] = b"".join((bare[: old.at], new.graft.body(), bare[end:]))
        tag, before, after = level
        around = (*self.around[: old.level], (tag, before, after), *self.around[old.level + 1 :])
        return replace(self, around=around, grafted=tuple(new if each is old else each for each in self.grafted))


@dataclass(frozen=True, slots=True, eq=False)
class Grafted:
    """A graft in a hole's `around`: in which of it, in which field of that (1: before, 2: after), and where there."""

    level: int
    field: int
    at: int
    graft: "Graft"


@dataclass(frozen=True, slots=True, eq=False)
class Splice:
    """A message in pieces; some are holes with what fills them now. `users` has the holes that depend on each name."""

    pieces: tuple[bytes, ...]
    holes: Mapping[int, Hole]
    users: Mapping[str, tuple[int, ...]]

    def body(self) -> bytes:
        return b"".join(self.pieces)

    def filled(self, changed: Collection[str], maker: "Maker") -> "Splice":
        """Return the message with everything made again that depends on a changed name."""
        pieces, parts = list(self.pieces), {}
        for index in self._users(changed):
            pieces[index], hole = self.holes[index].filled(changed, maker)
            if hole is not self.holes[index]:
                parts[index] = hole
        return Splice(tuple(pieces), {**self.holes, **parts} if parts else self.holes, self.users)

    def _users(self, names: Collection[str]) -> Iterable[int]:
        if len(names) == 1:
            return self.users.get(next(iter(names)), ())
        return {index for name in names for index in self.users.get(name, ())}


EMPTY = Splice((), MappingProxyType({}), MappingProxyType({}))


@dataclass(frozen=True, slots=True, eq=False)
class Graft:
    """Fields that are not written but put into a message; `source` is what they are made from, or put into.

    `names` are those that it is made of, `users` those whose change may change it: see `grafts_of`. `tag` is what each
    field begins with. `content` is what is there now, `made_of` tells what that was made of (None: of
    nothing, it is empty).
    """

    source: Message
    places: Places
    names: frozenset[str]
    users: frozenset[str]
    tag: bytes
    above: Message | None = None
    made_of: object = None
    content: Splice = EMPTY

    def body(self) -> bytes:
        return self.content.body()

    def filled(self, changed: Collection[str], maker: "Maker") -> "Graft":
        made_of = maker.made_of(self)
        if made_of == self.made_of:
            return replace(self, content=self.content.filled(changed, maker)) if self.content.users else self
        content = maker.grown(self)
        return replace(self, made_of=made_of, content=content.filled(content.users, maker))


class Maker(Protocol):
    """What fills the holes."""

    def encoded(self, leaf: Leaf) -> bytes:
        """Return the bytes of a leaf."""

    def made_of(self, graft: Graft) -> object:
        """Return what a graft is to be made of now; equal values make equal grafts."""

    def grown(self, graft: Graft) -> Splice:
        """Return a graft's fields, made anew, with holes that are still empty."""


def grafts_of(name: str) -> str:
    """Return the name that has changed when what is grafted for a name has."""
    return f"{name}\0"


@dataclass(frozen=True, slots=True)
class Rules:
    """Where grafts go: before each message of the kinds `before`, and in those of `after` behind the fields up to that
    number; and which kinds of messages hold what parts below `inherit`.
    """

    before: frozenset[str]
    after: Mapping[str, int]
    inherit: Callable[[Message], bool]


@dataclass(frozen=True, slots=True)
class Knife:
    """Takes messages apart. `names` tells what a wanted part depends on; parts that are equal become one leaf."""

    names: Callable[[Message, Places], frozenset[str]]
    rules: Rules
    _leaves: dict[tuple[int, bytes], Leaf] = field(default_factory=dict)

    def taken_apart(self, message: Message, places: Places) -> Splice:
        """Return a message with holes, still empty, in its wanted places."""
        hole = self._hole(message, places, None)
        if isinstance(hole.part, Splice) and not hole.around:
            return hole.part
        return _splice([b""], {0: hole})

    def listed(self, graft: Graft, messages: Iterable[tuple[Message, Places | None]]) -> Splice:
        """Return messages as fields of a graft, one after the other; None for places says that nothing changes."""
        pieces: list[bytes] = []
        holes: dict[int, Hole] = {}
        for message, places in messages:
            if places is None:
                body = proto.canonical(message)
                pieces.append(b"".join((graft.tag, varint(len(body)), body)))
            else:
                inner = self._hole(message, places, graft.above)
                holes[len(pieces)] = Hole((*inner.around, (graft.tag, b"", b"")), inner.part, inner.grafted)
                pieces.append(b"")
        return _splice(pieces, holes)

    def _hole(self, message: Message, places: Places, above: Message | None) -> Hole:
        kind = message.DESCRIPTOR.full_name
        if places.here or kind == proto.ANY or _in_maps(message, places):
            return Hole((), self._leaf(message, places, above))
        above = message if self.rules.inherit(message) else above
        body = proto.canonical(message)
        pieces: list[bytes] = []
        holes: dict[int, Hole] = {}
        done = 0
        for start, end, part, below in _wanted(message, body, places):
            inner = self._hole(part, below, above)
            tag = body[start : start + _varint_length(body, start)]
            graft = self._before(part, below, inner, tag, above)
            if len(places.below) == 1:
                grafted = () if graft is None else (Grafted(len(inner.around), 1, start, graft),)
                hole = Hole((*inner.around, (tag, body[:start], body[end:])), inner.part, (*inner.grafted, *grafted))
                return self._behind_one(message, places, hole, body, end)
            pieces.append(body[done:start])
            if graft is not None:
                holes[len(pieces)] = Hole((), graft)
                pieces.append(b"")
            holes[len(pieces)] = Hole((*inner.around, (tag, b"", b"")), inner.part, inner.grafted)
            pieces.append(b"")
            done = end
        if kind in self.rules.after:
            split = self._split(message, body)
            pieces.append(body[done:split])
            holes[len(pieces)] = Hole((), self._behind(message, places, holes.values()))
            pieces.append(b"")
            done = split
        return Hole((), _splice([*pieces, body[done:]], holes))

    def _before(self, message: Message, places: Places, inner: Hole, tag: bytes, above: Message | None) -> Graft | None:
        """Return the graft before a message, None where none goes."""
        if message.DESCRIPTOR.full_name not in self.rules.before:
            return None
        names = _names(inner.part)
        # In what is made for one of several names, the others are as they are written.
        users = frozenset(map(grafts_of, names)) | (names if len(names) > 1 else frozenset())
        return Graft(message, places, names, users, tag, above)

    def _behind(self, message: Message, places: Places, holes: Iterable[Hole]) -> Graft:
        """Return the graft in a message, behind what its rule says."""
        names = frozenset(name for hole in holes for name in _names(hole.part))
        tag = varint(self.rules.after[message.DESCRIPTOR.full_name] << 3 | 2)
        return Graft(message, places, names, frozenset(map(grafts_of, names)), tag)

    def _behind_one(self, message: Message, places: Places, hole: Hole, body: bytes, end: int) -> Hole:
        """Return the hole of a message's only part with the graft behind it, where one goes."""
        if message.DESCRIPTOR.full_name not in self.rules.after:
            return hole
        at = self._split(message, body) - end
        behind = Grafted(len(hole.around) - 1, 2, at, self._behind(message, places, (hole,)))
        return replace(hole, grafted=(*hole.grafted, behind))

    def _split(self, message: Message, body: bytes) -> int:
        last = self.rules.after[message.DESCRIPTOR.full_name]
        return next((start for number, start, _ in fields(body) if number > last), len(body))

    def _leaf(self, message: Message, places: Places, above: Message | None) -> Leaf:
        if places.below:
            return Leaf(message, places, self.names(message, places), above)
        key = (id(above), proto.canonical(message))
        if key not in self._leaves:
            self._leaves[key] = Leaf(message, places, self.names(message, places), above)
        return self._leaves[key]


def _names(part: Leaf | Splice | Graft) -> frozenset[str]:
    """Return the names that a part depends on, by themselves."""
    if isinstance(part, Splice):
        return frozenset(name for name in part.users if not name.endswith(grafts_of("")))
    return part.names


def _splice(pieces: list[bytes], holes: Mapping[int, Hole]) -> Splice:
    users: dict[str, list[int]] = {}
    for index, hole in holes.items():
        for name in hole.users:
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
