"""Where in a message the parts lie that change: searched for once, then changed without a search."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any as Message

from google.protobuf.descriptor import FieldDescriptor

from xds import proto

Key = int | str | bool | None


@dataclass(frozen=True, slots=True)
class Places:
    """A part of a message with its field path: whether it is wanted itself, and which parts below lead to wanted ones.

    Each of `below` is a field, the part's index or key in it (None for a field with one value), and its own places.
    """

    path: str
    here: bool
    below: tuple[tuple[str, Key, "Places"], ...]

    def paths(self) -> Iterator[str]:
        """Yield the path of each wanted part."""
        if self.here:
            yield self.path
        for _, _, part in self.below:
            yield from part.paths()


def find(message: Message, wanted: Callable[[Message], bool], path: str = "") -> Places | None:
    """Return where the wanted parts of `message` are, None when it has none; an Any counts as what it holds."""
    if message.DESCRIPTOR.full_name == proto.ANY:
        inner = proto.unpack(message)
        return None if inner is None else find(inner, wanted, path)
    below = []
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            name = f"{path}.{field.name}" if path else field.name
            for key, part in _parts(field, value):
                places = find(part, wanted, name if key is None else f"{name}[{key!r}]")
                if places is not None:
                    below.append((field.name, key, places))
    here = wanted(message)
    return Places(path, here, tuple(below)) if here or below else None


def change(message: Message, places: Places, alter: Callable[[Message, str], None]) -> None:
    """Call `alter` with each wanted part and its path, the innermost first, and keep what it does to them."""
    if message.DESCRIPTOR.full_name == proto.ANY:
        inner = proto.unpack(message)
        assert inner is not None, "find() has been inside"
        change(inner, places, alter)
        message.value = proto.canonical(inner)
        return
    for field, key, part in places.below:
        value = getattr(message, field)
        change(value if key is None else value[key], part, alter)
    if places.here:
        alter(message, places.path)


def copied(message: Message) -> Message:
    """Return a copy that may be changed."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _parts(field: Message, value: Message) -> Iterator[tuple[Key, Message]]:
    if not field.is_repeated:
        yield None, value
    elif not field.message_type.GetOptions().map_entry:
        yield from enumerate(value)
    elif field.message_type.fields_by_name["value"].message_type is not None:
        yield from sorted(value.items())
