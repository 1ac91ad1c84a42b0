"""The only door to protobuf: Envoy's message classes, canonical bytes, YAML <-> message.

The schema comes from envoy_api.binpb, which hatch_build.py derives from envoy-data-plane when the package is built.
"""

import difflib
import functools
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from typing import Any, TypeAlias

from google.protobuf import any_pb2, duration_pb2, empty_pb2, json_format, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

# Classes made at run time: a type checker cannot know their fields.
Message: TypeAlias = Any
MessageClass: TypeAlias = Any

Filler: TypeAlias = Callable[[Message, Any, int], None]  # reads words into a message; see fill()
Setter: TypeAlias = Callable[[Message, str, Any, int], None]  # of a message's field by name, from its words

ANY = "google.protobuf.Any"
DURATION = "google.protobuf.Duration"
DATA_SOURCE = "envoy.config.core.v3.DataSource"
SCHEMA = "envoy_api.binpb"
TYPE_URL_PREFIX = "type.googleapis.com/"
WELL_KNOWN = (any_pb2, duration_pb2, empty_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
WELL_KNOWN_PACKAGE = "google.protobuf."
MAX_DEPTH = 200  # of mappings and lists in each other
MAX_MESSAGES = 100  # in each other: json_format's own limit
SHOWN_VALUE_CHARACTERS = 80
FORMS = {
    "google.protobuf.Duration": "a duration such as 1.5s",
    "google.protobuf.Timestamp": "a time such as '2030-01-31T12:00:00Z'",
    "google.protobuf.Struct": "a mapping of JSON values",
    "google.protobuf.ListValue": "a list of JSON values",
    "google.protobuf.Value": "a JSON value",
}
SCALARS = {
    FieldDescriptor.TYPE_BOOL: "a bool",
    FieldDescriptor.TYPE_BYTES: "bytes in base64",
    FieldDescriptor.TYPE_DOUBLE: "a number",
    FieldDescriptor.TYPE_FLOAT: "a number",
    FieldDescriptor.TYPE_INT32: "an int32",
    FieldDescriptor.TYPE_INT64: "an int64",
    FieldDescriptor.TYPE_STRING: "a string",
    FieldDescriptor.TYPE_UINT32: "a uint32",
    FieldDescriptor.TYPE_UINT64: "a uint64",
}
PYTHON_TYPES = {
    FieldDescriptor.TYPE_BOOL: bool,
    FieldDescriptor.TYPE_INT32: int,
    FieldDescriptor.TYPE_INT64: int,
    FieldDescriptor.TYPE_STRING: str,
    FieldDescriptor.TYPE_UINT32: int,
    FieldDescriptor.TYPE_UINT64: int,
}
"""Of words that a field takes as they are; protobuf itself refuses a number that is too large."""


class Unusual(ValueError):
    """Words that fill() leaves to read()."""


# SystemError: protobuf's own, of a text with half a surrogate where an enum's value should be.
READ_FAULTS = (json_format.ParseError, AttributeError, KeyError, SystemError, TypeError, ValueError)


class ParseFailure(Exception):  # the field's word; as all errors here it is named after what happened
    """Words that are no message: `path` is the field's path in them ("" is their top), `what` says what is wrong.

    `discreet` says it without a word of what was given, for resources that hold secrets.
    """

    def __init__(self, path: str, what: str, discreet: str = "cannot be read") -> None:
        super().__init__(f"{path}: {what}" if path else what)
        self.path = path
        self.what = what
        self.discreet = discreet


@functools.cache
def pool() -> DescriptorPool:
    """Descriptors of Envoy's whole API, apart from protobuf's default pool. Load it before threads use it."""
    content = resources.files("xds").joinpath(SCHEMA).read_bytes()
    descriptors = DescriptorPool()
    for module in WELL_KNOWN:
        descriptors.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    for file in FileDescriptorSet.FromString(content).file:
        descriptors.AddSerializedFile(file.SerializeToString())
    return descriptors


@functools.cache
def message_class(full_name: str) -> MessageClass:
    """Class of the messages of that name; KeyError when Envoy's API has none."""
    # In the schema, messages stand for packages too. Only these begin with a small letter.
    if not full_name.rpartition(".")[2][:1].isupper():
        raise KeyError(f"no message is named {full_name!r} in this version of Envoy's API")
    try:
        return GetMessageClass(pool().FindMessageTypeByName(full_name))
    except KeyError as error:
        raise KeyError(f"no message is named {full_name!r} in this version of Envoy's API") from error


def type_url(full_name: str) -> str:
    """What an Any says of a message of that name."""
    return TYPE_URL_PREFIX + full_name


def canonical(message: Message) -> bytes:
    """Encode so that equal messages give equal bytes: maps are sorted. What an Any holds is kept as it is."""
    encoded: bytes = message.SerializeToString(deterministic=True)
    return encoded


def pack(message: Message) -> Message:
    """Put a message into an Any, in its canonical bytes."""
    return message_class(ANY)(type_url=type_url(message.DESCRIPTOR.full_name), value=canonical(message))


def unpack(any_message: Message) -> Message | None:
    """Message that an Any holds, None for a type that Envoy's API does not have; DecodeError for broken bytes."""
    try:
        cls = class_behind(any_message.type_url)
    except KeyError:
        return None
    return cls.FromString(any_message.value)


def to_dict(message: Message) -> dict[str, Any]:
    """Envoy's own words for a message, every Any expanded; TypeError when the API does not have the type of one."""
    words = json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=pool())
    return {name: plain(part, MAX_DEPTH) for name, part in words.items()}  # an Any is an OrderedDict there


def parse(full_name: str, value: Mapping[str, object]) -> Message:
    """Read a message from Envoy's own words, as they come out of YAML or JSON; ParseFailure when they are wrong.

    Equal words give equal canonical bytes, what is inside an Any included. Rules of single fields ("at least 1") are
    Envoy's to check.
    """
    cls = message_class(full_name)
    message = cls()
    try:
        fill(message, value, MAX_MESSAGES)
    except READ_FAULTS:
        return read(cls, value)
    return message


def read(cls: MessageClass, value: Mapping[str, object]) -> Message:
    """Read any words, or say what is wrong with them."""
    words = plain(value, MAX_DEPTH)
    try:
        message = json_format.ParseDict(words, cls(), descriptor_pool=pool())
        settle(message)
    except READ_FAULTS as error:
        fault = next(faults(cls.DESCRIPTOR, words, ""), None)
        raise fault or ParseFailure("", str(error)) from error
    return message
    return message


def fill(message: Message, words: Any, depth: int) -> None:
    """Read words into a new message: the same as read() does, at a tenth of its cost, of words that are as usual.

    `depth` is how many messages may lie in each other from this one on. Raises one of READ_FAULTS for what is wrong and
    for what is only unusual, such as JSON's other spelling of a name; then the message is of no use.
    """
    if type(words) is not dict or depth <= 1:
        raise Unusual
    known = setters(message.DESCRIPTOR)
    chosen: set[str] = set()
    for name, value in words.items():
        oneof, set_field = known[name]
        if value is None:
            set_by_json_format(message, name, value, depth)
            continue
        if oneof in chosen:
            raise Unusual
        if oneof:
            chosen.add(oneof)
        set_field(message, name, value, depth)


@functools.cache
def setters(descriptor: Descriptor) -> Mapping[str, tuple[str, Setter]]:
    """The oneof of each field ("" for none), and what sets the field in a message from its words."""
    oneofs = {field.name: each.name for each in descriptor.oneofs for field in each.fields}
    return {field.name: (oneofs.get(field.name, ""), setter(field)) for field in descriptor.fields}


def setter(field: FieldDescriptor) -> Setter:
    entry = entry_of(field)
    value = field if entry is None else entry.fields_by_name["value"]
    if value.message_type is None:
        python_type = PYTHON_TYPES.get(field.type)
        if field.enum_type is not None and not field.is_repeated:
            numbers = {name: each.number for name, each in field.enum_type.values_by_name.items()}
            return functools.partial(set_enum, numbers)
        if python_type is None:
            return set_by_json_format
        return functools.partial(set_scalars if field.is_repeated else set_scalar, python_type)
    filler = filler_of(value.message_type)
    if filler is None or (entry is not None and entry.fields_by_name["key"].type != FieldDescriptor.TYPE_STRING):
        return set_by_json_format
    set_messages = set_map if entry is not None else set_list if field.is_repeated else set_message
    return functools.partial(set_messages, filler)


def filler_of(kind: Descriptor) -> Filler | None:
    """What reads words into messages of a type; None when only json_format can."""
    if kind.full_name == ANY:
        return fill_any
    if kind.full_name == DURATION:
        return fill_duration
    if not has_own_form(kind):
        return fill
    wrapped = kind.fields_by_name.get("value")
    return functools.partial(fill_wrapper, setter(wrapped)) if wrapped is not None and len(kind.fields) == 1 else None


def fill_any(message: Message, words: Any, depth: int) -> None:
    if type(words) is not dict or not words:
        raise Unusual
    url = words["@type"]
    cls = class_behind(url)
    if has_own_form(cls.DESCRIPTOR):
        raise Unusual
    inner = cls()
    fill(inner, {name: value for name, value in words.items() if name != "@type"}, depth)
    message.type_url, message.value = url, canonical(inner)


def fill_duration(message: Message, words: Any, _: int) -> None:
    message.FromJsonString(words)


def fill_wrapper(set_value: Setter, message: Message, words: Any, depth: int) -> None:
    set_value(message, "value", words, depth)


def set_scalar(python_type: type, message: Message, name: str, value: Any, depth: int) -> None:
    if type(value) is python_type:
        setattr(message, name, value)
    else:
        set_by_json_format(message, name, value, depth)


def set_scalars(python_type: type, message: Message, name: str, value: Any, _: int) -> None:
    if type(value) is not list or any(type(each) is not python_type for each in value):
        raise Unusual
    getattr(message, name).extend(value)


def set_enum(numbers: Mapping[str, int], message: Message, name: str, value: Any, depth: int) -> None:
    if type(value) is str and value in numbers:
        setattr(message, name, numbers[value])
    else:
        set_by_json_format(message, name, value, depth)


def set_message(filler: Filler, message: Message, name: str, value: Any, depth: int) -> None:
    part = getattr(message, name)
    part.SetInParent()
    filler(part, value, depth - 1)


def set_list(filler: Filler, message: Message, name: str, value: Any, depth: int) -> None:
    if type(value) is not list:
        raise Unusual
    add = getattr(message, name).add
    for each in value:
        filler(add(), each, depth - 1)


def set_map(filler: Filler, message: Message, name: str, value: Any, depth: int) -> None:
    if type(value) is not dict or any(type(key) is not str for key in value):
        raise Unusual
    parts = getattr(message, name)
    for key, each in value.items():
        filler(parts[key], each, depth - 1)


def set_by_json_format(message: Message, name: str, value: Any, depth: int) -> None:
    words = {name: plain(value, MAX_DEPTH)}
    json_format.ParseDict(words, message, descriptor_pool=pool(), max_recursion_depth=depth)
    for part in submessages(message.DESCRIPTOR.fields_by_name[name], getattr(message, name)):
        settle(part)


def plain(value: object, depth: int) -> Any:
    """Copy in dicts and lists: json_format takes nothing else, and changes the dicts while it reads them."""
    if depth == 0:
        what = f"nested deeper than {MAX_DEPTH} levels"
        raise ParseFailure("", what, what)
    if isinstance(value, Mapping):
        return {key: plain(part, depth - 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, depth - 1) for part in value]
    return value


def settle(message: Message) -> None:
    """Make what every Any holds canonical, from the innermost outwards: json_format encodes maps in any order."""
    if message.DESCRIPTOR.full_name == ANY:
        if message.type_url:
            inner = class_behind(message.type_url).FromString(message.value)
            settle(inner)
            message.value = canonical(inner)
        return
    for field, value in message.ListFields():
        for part in submessages(field, value):
            settle(part)


def submessages(field: FieldDescriptor, value: Any) -> Iterator[Message]:
    """Messages directly in the value of a field."""
    if field.message_type is None:
        return
    entry = entry_of(field)
    if entry is not None:
        if entry.fields_by_name["value"].message_type is not None:
            yield from value.values()
    elif field.is_repeated:
        yield from value
    else:
        yield value


def class_behind(url: str) -> MessageClass:
    """Class of the messages in an Any of that type URL; KeyError when there is none."""
    prefix, slash, full_name = url.rpartition("/")
    if not prefix or not slash:
        # Envoy wants the slash, protobuf does not.
        raise KeyError(f"{url!r} is no type URL: write {type_url(full_name)}")
    return message_class(full_name)


def entry_of(field: FieldDescriptor) -> Descriptor | None:
    """Type of a map's entries, None for a field that is no map."""
    kind = field.message_type
    return kind if kind is not None and kind.GetOptions().map_entry else None


def faults(descriptor: Descriptor, value: object, path: str) -> Iterator[ParseFailure]:
    """What is wrong with the words for a message of that type, in their order.

    json_format's own errors have the path only sometimes, so once it has refused, the words are walked to find where.
    """
    if not isinstance(value, Mapping):
        yield unfit(path, value, f"a mapping of fields of {descriptor.full_name}", descriptor)
        return
    chosen: dict[str, str] = {}
    for name, part in value.items():
        field = field_named(descriptor, name)
        if field is None:
            yield no_field(path, descriptor, name)
        elif part is not None:
            oneof = field.containing_oneof
            if oneof is not None and chosen.setdefault(oneof.name, name) != name:
                first = chosen[oneof.name]
                what = f"{first!r} and {name!r} exclude each other in {descriptor.full_name}"
                yield ParseFailure(path, what, what)
            yield from field_faults(field, part, join(path, name))


def field_faults(field: FieldDescriptor, value: object, path: str) -> Iterator[ParseFailure]:
    entry = entry_of(field)
    if entry is not None:
        if not isinstance(value, Mapping):
            yield unfit(path, value, "a mapping", field.containing_type)
            return
        for key, part in value.items():
            yield from item_faults(entry.fields_by_name["key"], key, path)
            yield from item_faults(entry.fields_by_name["value"], part, f"{path}[{key}]")
    elif field.is_repeated:
        if not isinstance(value, list):
            yield unfit(path, value, "a list", field.containing_type)
            return
        for index, part in enumerate(value):
            yield from item_faults(field, part, f"{path}[{index}]")
    else:
        yield from item_faults(field, value, path)


def item_faults(field: FieldDescriptor, value: object, path: str) -> Iterator[ParseFailure]:
    """What is wrong with one value, or with one element of a list or map."""
    kind = field.message_type
    if kind is not None and kind.full_name == ANY:
        yield from any_faults(value, path)
    elif kind is not None and not has_own_form(kind):
        yield from faults(kind, value, path)
    elif not is_fit(field, value):
        yield unfit(path, value, wanted(field, value), field.containing_type)


def any_faults(value: object, path: str) -> Iterator[ParseFailure]:
    if not isinstance(value, Mapping):
        yield unfit(path, value, "a mapping with '@type'", None)
        return
    if not value:
        return
    url = value.get("@type")
    if not isinstance(url, str):
        what = f"'@type' is missing; write '@type': {TYPE_URL_PREFIX}..."
        yield ParseFailure(path, what, what)
        return
    try:
        kind = class_behind(url).DESCRIPTOR
    except KeyError as error:
        yield ParseFailure(path, f"'@type': {error.args[0]}", f"'@type': names no message; write {TYPE_URL_PREFIX}...")
        return
    if kind.full_name == ANY:
        yield from any_faults(value.get("value"), join(path, "value"))
    elif has_own_form(kind):
        if not is_readable(message_class(ANY), dict(value)):
            inner = value.get("value")
            yield unfit(join(path, "value"), inner, form_of(kind, inner), kind)
    else:
        yield from faults(kind, {name: part for name, part in value.items() if name != "@type"}, path)


def has_own_form(kind: Descriptor) -> bool:
    """Whether JSON writes the type otherwise than as a mapping of its fields: so it is for well-known ones with any."""
    return kind.full_name.startswith(WELL_KNOWN_PACKAGE) and len(kind.fields) > 0


def is_fit(field: FieldDescriptor, value: object) -> bool:
    """Whether json_format takes the value for that field, or as its only element."""
    owner: Any = field.containing_type  # None only for extensions, which Envoy's API does not have
    return is_readable(GetMessageClass(owner), {field.name: [value] if field.is_repeated else value})


def is_readable(cls: MessageClass, words: dict[str, object]) -> bool:
    try:
        json_format.ParseDict(words, cls(), descriptor_pool=pool())
    except READ_FAULTS:
        return False
    return True


def field_named(descriptor: Descriptor, name: object) -> FieldDescriptor | None:
    """JSON spells `port_value` also `portValue`."""
    if not isinstance(name, str):
        return None
    found = descriptor.fields_by_name.get(name)
    return found or next((field for field in descriptor.fields if field.json_name == name), None)


def no_field(path: str, descriptor: Descriptor, name: object) -> ParseFailure:
    near = difflib.get_close_matches(str(name), descriptor.fields_by_name, n=1)
    hint = f" in {descriptor.full_name}" + (f"; did you mean {near[0]!r}?" if near else "")
    return ParseFailure(path, f"no field named {name!r}{hint}", f"a field that is not{hint}")


def unfit(path: str, value: object, wanted: str, owner: Descriptor | None) -> ParseFailure:
    """Say that a value is not what is wanted; what a DataSource holds (`owner`) is a secret more often than not."""
    discreet = f"what is given is not {wanted}"
    hides = owner is not None and owner.full_name == DATA_SOURCE
    return ParseFailure(path, discreet if hides else f"{shown(value)} is not {wanted}", discreet)


def wanted(field: FieldDescriptor, value: object) -> str:
    """What a field takes, in the user's words; `value` is what it was given."""
    if field.message_type is not None:
        return form_of(field.message_type, value)
    if field.enum_type is not None:
        return one_of(field.enum_type, value)
    quotes = "; put it in quotes" if field.type == FieldDescriptor.TYPE_STRING and value is not None else ""
    return SCALARS.get(field.type, "an integer") + quotes


def form_of(kind: Descriptor, value: object) -> str:
    """How a well-known type is written; the likes of UInt32Value are written as their only field."""
    return FORMS.get(kind.full_name) or wanted(kind.fields_by_name["value"], value)


def one_of(enum: EnumDescriptor, value: object) -> str:
    near = difflib.get_close_matches(str(value).upper(), enum.values_by_name, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"one of {', '.join(enum.values_by_name)}" + hint


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_VALUE_CHARACTERS else f"{text[:SHOWN_VALUE_CHARACTERS]}..."


def join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)
