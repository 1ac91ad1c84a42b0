"""Envoy's API, derived from envoy-data-plane's classes when the package is built: xds/envoy_api.binpb.

envoy-data-plane has Envoy's whole API as betterproto2 classes, but no descriptors, which protobuf's codec needs. This
hook reads the classes and writes descriptors, as one serialized FileDescriptorSet. By hand: `python hatch_build.py`.
"""

import dataclasses
import hashlib
import importlib
import keyword
import pkgutil
import runpy
import sys
import typing
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import betterproto2
import envoy_data_plane
from envoy_data_plane.message_pool import default_message_pool
from google.protobuf import any_pb2, duration_pb2, empty_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.message import DecodeError
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TARGET = Path(__file__).parent / "xds" / "envoy_api.binpb"
WELL_KNOWN = (any_pb2, duration_pb2, empty_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
# protobuf's own descriptors are used for this package, for the codec treats these types by name.
WELL_KNOWN_PACKAGE = "google.protobuf."


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # its configuration type is hatchling's own affair
    """Writes the descriptors and the page before hatchling collects the wheel's files, for editable installs too."""

    def initialize(self, version: str, build_data: dict[str, typing.Any]) -> None:  # noqa: ARG002
        if self.target_name == "wheel":
            write_descriptors(TARGET)
        build_page()


def build_page() -> None:
    """Build the web page where that is possible: without it the package is whole, and `GET /` says what is missing."""
    page = runpy.run_path(str(Path(__file__).with_name("build_page.py")))
    page["main"]([])


def write_descriptors(target: Path) -> bool:
    """Write the descriptors to `target` unless they are there already; true when they were written."""
    stamp = origin()
    if target.exists() and stamp_of(target.read_bytes()) == stamp:
        return False
    content = serialize(derive(), stamp)
    unfinished = target.with_suffix(".unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(target)
    return True


def origin() -> str:
    """Name of what the descriptors are made from: both packages' versions, and this file."""
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return f"envoy-data-plane {version('envoy-data-plane')}, betterproto2 {version('betterproto2')}, hook {source}"


def stamp_of(content: bytes) -> str | None:
    """The origin that `content` carries as the name of its first file, which is empty but for this name."""
    try:
        files = FileDescriptorSet.FromString(content).file
    except DecodeError:
        return None
    return files[0].name if files else None


def serialize(files: Iterable[FileDescriptorProto], stamp: str) -> bytes:
    """One FileDescriptorSet of all `files`, the stamp first."""
    everything = FileDescriptorSet(file=[FileDescriptorProto(name=stamp, syntax="proto3"), *files])
    return everything.SerializeToString(deterministic=True)


def derive() -> tuple[FileDescriptorProto, ...]:
    """Descriptors of all messages and enums of envoy-data-plane; a file comes after those it depends on."""
    modules = every_module()
    tree = Tree(full_names(modules))
    for cls, full_name in sorted(tree.names.items(), key=lambda item: item[1]):
        if full_name.startswith(WELL_KNOWN_PACKAGE):
            continue
        if issubclass(cls, betterproto2.Enum):
            add_enum(tree, cls)
        else:
            add_message(tree, cls)
    return tree.files()


def every_module() -> tuple[ModuleType, ...]:
    """All modules of envoy-data-plane, imported: its message pool knows only what has been imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = pkgutil.walk_packages(envoy_data_plane.__path__, f"{envoy_data_plane.__name__}.")
        return tuple(importlib.import_module(module.name) for module in found)


def full_names(modules: Iterable[ModuleType]) -> dict[type, str]:
    """True full name of every message, and for every enum the one that fits best.

    The pool has the names of messages. A nested enum's class is named after its parents' class, in one word; its
    parent is the message with the longest name that it starts with. Nothing on the wire depends on an enum's name.
    """
    names = {cls: url.rpartition("/")[2] for cls, url in default_message_pool.type_to_url.items()}
    parents = {(cls.__module__, cls.__name__): name for cls, name in names.items()}
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, betterproto2.Enum) and value.__module__ == module.__name__:
                names[value] = enum_name(value, parents)
    return names


def enum_name(cls: type, parents: Mapping[tuple[str, str], str]) -> str:
    """`parents` is the full name of each message by its class's module and name."""
    for end in range(len(cls.__name__) - 1, 0, -1):
        parent = parents.get((cls.__module__, cls.__name__[:end]))
        if parent is not None and cls.__name__[end].isupper():
            return f"{parent}.{cls.__name__[end:]}"
    return f"{cls.__module__.removeprefix('envoy_data_plane.')}.{cls.__name__}"


@dataclass(slots=True)
class Tree:
    """Descriptors under construction.

    Each first word of a package (`envoy`, `xds`) is one file, in which messages stand for the rest of the package's
    name: Envoy's packages import each other in circles, which files may not.
    """

    names: Mapping[type, str]
    roots: dict[str, FileDescriptorProto] = field(default_factory=dict)
    messages: dict[str, DescriptorProto] = field(default_factory=dict)
    well_known: dict[str, str] = field(
        default_factory=lambda: {
            descriptor.full_name: module.DESCRIPTOR.name
            for module in WELL_KNOWN
            for types in (module.DESCRIPTOR.message_types_by_name, module.DESCRIPTOR.enum_types_by_name)
            for descriptor in types.values()
        }
    )

    def root(self, full_name: str) -> FileDescriptorProto:
        word = full_name.partition(".")[0]
        if word not in self.roots:
            self.roots[word] = FileDescriptorProto(name=f"{word}.proto", package=word, syntax="proto3")
        return self.roots[word]

    def message(self, full_name: str) -> DescriptorProto:
        """The message of that name, or the one which stands for the package of that name; made when missing."""
        if full_name not in self.messages:
            scope, _, name = full_name.rpartition(".")
            is_top = "." not in scope
            siblings = self.root(scope).message_type if is_top else self.message(scope).nested_type
            self.messages[full_name] = siblings.add(name=name)
        return self.messages[full_name]

    def reference(self, cls: type, *, used_by: str) -> str:
        """Name by which a field of `used_by` refers to `cls`; its file becomes a dependency."""
        full_name = self.names[cls]
        is_well_known = full_name.startswith(WELL_KNOWN_PACKAGE)
        file_name = self.well_known[full_name] if is_well_known else self.root(full_name).name
        user = self.root(used_by)
        if file_name != user.name and file_name not in user.dependency:
            user.dependency.append(file_name)
        return f".{full_name}"

    def files(self) -> tuple[FileDescriptorProto, ...]:
        """All files, each after those it depends on; well-known ones are left to protobuf."""
        by_name = {file.name: file for file in sorted(self.roots.values(), key=lambda file: file.name)}
        graph = {name: sorted(file.dependency) for name, file in by_name.items()}
        return tuple(by_name[name] for name in TopologicalSorter(graph).static_order() if name in by_name)


def add_enum(tree: Tree, cls: type[betterproto2.Enum]) -> None:
    scope, _, name = tree.names[cls].rpartition(".")
    siblings = tree.root(scope).enum_type if "." not in scope else tree.message(scope).enum_type
    descriptor: EnumDescriptorProto = siblings.add(name=name)
    # proto3 wants zero first.
    values = sorted(enum_values(cls), key=lambda value: value[1] != 0)
    for value_name, number in values:
        descriptor.value.add(name=value_name, number=number)
    if len({number for _, number in values}) < len(values):
        descriptor.options.allow_alias = True


def enum_values(cls: type[betterproto2.Enum]) -> list[tuple[str, int]]:
    """Names and numbers as in the .proto: betterproto2 shortens names, and keeps the true ones beside them."""
    renamed = cls.betterproto_renamed_proto_names_to_value()
    kept = [(name, member.value) for name, member in cls.__members__.items() if member.value not in renamed.values()]
    return [*renamed.items(), *kept]


def add_message(tree: Tree, cls: type[betterproto2.Message]) -> None:
    full_name = tree.names[cls]
    descriptor = tree.message(full_name)
    hints = typing.get_type_hints(cls)
    oneofs: dict[str, int] = {}
    alone = []
    for attribute in sorted(dataclasses.fields(cls), key=number_of):
        meta = attribute.metadata["betterproto"]
        made = descriptor.field.add(name=proto_name(attribute.name), number=meta.number)
        describe(tree, full_name, made, meta, hints[attribute.name])
        if meta.group is not None:
            made.oneof_index = oneofs.setdefault(meta.group, len(oneofs))
        elif meta.optional and meta.proto_type != betterproto2.TYPE_MESSAGE:
            alone.append(made)
    for name in oneofs:
        descriptor.oneof_decl.add(name=name)
    for made in alone:
        # An optional scalar is the only member of a oneof of its own, which comes after all true ones.
        made.proto3_optional = True
        made.oneof_index = len(descriptor.oneof_decl)
        descriptor.oneof_decl.add(name=f"_{made.name}")


def number_of(attribute: "dataclasses.Field[object]") -> int:
    number: int = attribute.metadata["betterproto"].number
    return number


def proto_name(attribute: str) -> str:
    """betterproto2 appends an underscore to a Python keyword."""
    stripped = attribute.removesuffix("_")
    return stripped if keyword.iskeyword(stripped) else attribute


def describe(
    tree: Tree, full_name: str, made: FieldDescriptorProto, meta: betterproto2.FieldMetadata, hint: object
) -> None:
    """Fill in type and label of a field of the message `full_name`; `hint` is the Python type of the attribute."""
    made.label = FieldDescriptorProto.LABEL_OPTIONAL
    if meta.proto_type == betterproto2.TYPE_MAP:
        entry = add_map_entry(tree, full_name, made.name, meta, hint)
        made.label = FieldDescriptorProto.LABEL_REPEATED
        made.type = FieldDescriptorProto.TYPE_MESSAGE
        made.type_name = f".{full_name}.{entry.name}"
        return
    if meta.repeated:
        made.label = FieldDescriptorProto.LABEL_REPEATED
    made.type = FieldDescriptorProto.Type.Value(f"TYPE_{meta.proto_type.upper()}")
    if meta.proto_type in (betterproto2.TYPE_MESSAGE, betterproto2.TYPE_ENUM):
        # Wrappers, durations and the like have a Python value in the hint and their own class in `unwrap`.
        cls = class_in(hint) if meta.unwrap is None else meta.unwrap()
        made.type_name = tree.reference(cls, used_by=full_name)


def add_map_entry(
    tree: Tree, full_name: str, field_name: str, meta: betterproto2.FieldMetadata, hint: object
) -> DescriptorProto:
    """The message nested in `full_name` that stands for one entry of a map."""
    words = field_name.split("_")
    entry = tree.message(full_name).nested_type.add(name="".join(map(capitalized, words)) + "Entry")
    entry.options.map_entry = True
    for name, part, part_hint in zip(("key", "value"), meta.map_meta, typing.get_args(hint), strict=True):
        made = entry.field.add(name=name, number=part.number)
        describe(tree, full_name, made, part, part_hint)
    return entry


def capitalized(word: str) -> str:
    return word[:1].upper() + word[1:]


def class_in(hint: object) -> type:
    """The class in `X`, `X | None` or `list[X]`."""
    parts = typing.get_args(hint) or (hint,)
    return next(part for part in parts if isinstance(part, type))


if __name__ == "__main__":
    what = "written" if write_descriptors(TARGET) else "is up to date"
    sys.stdout.write(f"{TARGET} {what}\n")
