"""Envoy's services as gRPC's server reflection shows them: files of descriptors, made from the schema of messages."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from google.protobuf.descriptor import Descriptor, EnumDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from xds import proto

WELL_KNOWN_FILES = frozenset(module.DESCRIPTOR.name for module in proto.WELL_KNOWN)

Kind = Descriptor | EnumDescriptor


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC: full names of its messages, and on which sides it streams."""

    name: str
    request: str
    response: str
    client_streams: bool = True
    server_streams: bool = True


def described(services: Mapping[str, Iterable[Method]], others: Iterable[bytes]) -> DescriptorPool:
    """Return a pool that has these services with all that their messages are made of, and `others`: files, serialized.

    The schema's own pool is no use: in it messages stand for packages, so that no service can be in one.
    """
    layout = _Layout(DescriptorPool())
    for file in (*(module.DESCRIPTOR.serialized_pb for module in proto.WELL_KNOWN), *others):
        layout.pool.AddSerializedFile(file)
    for full_name, methods in services.items():
        layout.add_service(full_name, tuple(methods))
    return layout.pool


@dataclass(slots=True)
class _Layout:
    """Files under construction: one for each message or enum that stands directly in a package.

    Those that need each other in a circle share one; they are of one package, for Envoy's own files have no circles.
    """

    pool: DescriptorPool
    file_of: dict[str, str] = field(default_factory=dict)

    def add_service(self, full_name: str, methods: tuple[Method, ...]) -> None:
        package, _, name = full_name.rpartition(".")
        file = FileDescriptorProto(name=f"{full_name.replace('.', '/')}.proto", package=package, syntax="proto3")
        service = file.service.add(name=name)
        for method in methods:
            made = service.method.add(name=method.name)
            made.input_type, made.output_type = f".{method.request}", f".{method.response}"
            made.client_streaming, made.server_streaming = method.client_streams, method.server_streams
        kinds = [proto.pool().FindMessageTypeByName(name) for each in methods for name in (each.request, each.response)]
        file.dependency.extend(sorted({self._file(kind) for kind in kinds}))
        self.pool.AddSerializedFile(file.SerializeToString())

    def _file(self, kind: Kind) -> str:
        """Return the file that a kind is in, made before if it was not there."""
        if kind.file.name in WELL_KNOWN_FILES:
            return str(kind.file.name)
        if kind.full_name not in self.file_of:
            self._add(_circle(kind))
        return self.file_of[kind.full_name]

    def _add(self, circle: tuple[Kind, ...]) -> None:
        full_name = circle[0].full_name
        file = FileDescriptorProto(
            name=f"{full_name.replace('.', '/')}.proto", package=full_name.rpartition(".")[0], syntax="proto3"
        )
        outside = {each.full_name: each for kind in circle for each in _used(kind) if each not in circle}
        file.dependency.extend(sorted({self._file(each) for each in outside.values()}))
        for kind in circle:
            assert kind.full_name.rpartition(".")[0] == file.package, (kind.full_name, file.package)
            self.file_of[kind.full_name] = file.name
            if isinstance(kind, Descriptor):
                kind.CopyToProto(file.message_type.add())
            else:
                kind.CopyToProto(file.enum_type.add())
        self.pool.AddSerializedFile(file.SerializeToString())


def _circle(kind: Kind) -> tuple[Kind, ...]:
    """Return the kinds that need each other together with this one, sorted by name."""
    reached = _reached(kind)
    circle = {name: each for name, each in reached.items() if kind.full_name in _reached(each)}
    return tuple(each for _, each in sorted({**circle, kind.full_name: kind}.items()))


def _reached(kind: Kind) -> dict[str, Kind]:
    """Return all that a kind needs, directly or not, by name; itself only when it needs itself."""
    found: dict[str, Kind] = {}
    left = [kind]
    while left:
        for each in _used(left.pop()):
            if each.full_name not in found:
                found[each.full_name] = each
                left.append(each)
    return found


def _used(kind: Kind) -> list[Kind]:
    """Return the kinds, directly in a package, that the fields of this one and of what is nested in it name."""
    if not isinstance(kind, Descriptor):
        return []
    used = [_top(each) for each in (part.message_type or part.enum_type for part in kind.fields) if each is not None]
    return used + [each for nested in kind.nested_types for each in _used(nested)]


def _top(kind: Kind) -> Kind:
    """Return the kind directly in a package that this one is, or is nested in."""
    while kind.containing_type is not None and kind.containing_type.name[0].isupper():
        kind = kind.containing_type
    return kind
