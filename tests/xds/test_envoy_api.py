"""Envoy's API is derived whole from envoy-data-plane, and gives the same bytes as its own classes."""

import dataclasses
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import betterproto2
import pytest
from envoy_data_plane.message_pool import default_message_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hatch_build
from xds import proto

SERVED = (
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.core.v3.TypedExtensionConfig",
    "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "envoy.config.listener.v3.Listener",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.extensions.transport_sockets.tls.v3.Secret",
    "envoy.service.discovery.v3.DeltaDiscoveryRequest",
    "envoy.service.discovery.v3.DeltaDiscoveryResponse",
    "envoy.service.discovery.v3.DiscoveryRequest",
    "envoy.service.discovery.v3.DiscoveryResponse",
    "envoy.service.runtime.v3.Runtime",
)
IN_ANY = (
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "google.protobuf.Any",
    "google.protobuf.Duration",
    "google.protobuf.Struct",
)


@pytest.fixture(scope="module")
def their_classes() -> Mapping[str, Any]:
    """envoy-data-plane's own classes by full name."""
    hatch_build.every_module()
    return {url.rpartition("/")[2]: cls for url, cls in default_message_pool.url_to_type.items()}


def test_every_message_of_envoy_data_plane_is_in_the_pool_with_the_same_fields(
    their_classes: Mapping[str, Any],
) -> None:
    names = {cls: name for name, cls in their_classes.items()}
    ours = [name for name in their_classes if not name.startswith(proto.WELL_KNOWN_PACKAGE)]
    assert len(ours) > 1900
    assert {name: their_fields(their_classes[name], names) for name in ours} == {
        name: our_fields(proto.message_class(name).DESCRIPTOR) for name in ours
    }


def test_well_known_types_have_the_fields_that_envoy_data_plane_gives_them(their_classes: Mapping[str, Any]) -> None:
    well_known = sorted(hatch_build.Tree({}).well_known.keys() & their_classes.keys())
    assert len(well_known) == 16
    for name in well_known:
        ours = {field.name: field.number for field in proto.message_class(name).DESCRIPTOR.fields}
        assert ours == {field.name: number_of(field) for field in dataclasses.fields(their_classes[name])}


def test_every_enum_has_the_true_names_of_its_values() -> None:
    health = proto.pool().FindEnumTypeByName("envoy.config.core.v3.HealthStatus")
    assert {value.name: value.number for value in health.values} == {
        "UNKNOWN": 0, "HEALTHY": 1, "UNHEALTHY": 2, "DRAINING": 3, "TIMEOUT": 4, "DEGRADED": 5,
    }  # fmt: skip
    # betterproto2 cuts METHOD_UNSPECIFIED to UNSPECIFIED.
    method = proto.pool().FindEnumTypeByName("envoy.config.core.v3.RequestMethod")
    assert [value.name for value in method.values][:2] == ["METHOD_UNSPECIFIED", "GET"]
    assert proto.message_class("envoy.config.cluster.v3.Cluster").DiscoveryType.Value("EDS") == 3


def test_deriving_again_in_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    target = tmp_path / "again.binpb"
    write = "import hatch_build, pathlib, sys; hatch_build.write_descriptors(pathlib.Path(sys.argv[1]))"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(hatch_build.__file__).parent)}
    subprocess.run([sys.executable, "-c", write, str(target)], env=environment, check=True, timeout=120)
    assert target.read_bytes() == resources.files("xds").joinpath(proto.SCHEMA).read_bytes()


def test_the_hook_derives_only_when_its_inputs_changed(tmp_path: Path) -> None:
    target = tmp_path / "api.binpb"
    assert hatch_build.write_descriptors(target)
    assert not hatch_build.write_descriptors(target)
    fresh = target.read_bytes()
    for stale in (b"", b"no descriptors", hatch_build.serialize((), "envoy-data-plane 2.1.0")):
        target.write_bytes(stale)
        assert hatch_build.write_descriptors(target)
        assert target.read_bytes() == fresh


def test_packages_are_no_messages() -> None:
    for name in ("envoy", "envoy.config.core.v3", "envoy.config.core.v3.NoSuchThing"):
        with pytest.raises(KeyError, match="no message is named"):
            proto.message_class(name)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_messages_of_both_libraries_have_equal_bytes(data: st.DataObject, their_classes: Mapping[str, Any]) -> None:
    name = data.draw(st.sampled_from(SERVED))
    ours = data.draw(messages(proto.message_class(name), depth=4))
    canonical = proto.canonical(ours)
    with warnings.catch_warnings():
        # Fields which Envoy deprecates warn whenever they are set.
        warnings.simplefilter("ignore", DeprecationWarning)
        built = bytes(their_message(their_classes, ours))
        decoded = bytes(their_classes[name].parse(canonical))
    # betterproto2 writes fields in the order of the .proto file and maps in any, so both are compared in our order.
    assert proto.canonical(proto.message_class(name).FromString(built)) == canonical
    assert proto.canonical(proto.message_class(name).FromString(decoded)) == canonical


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_words_of_a_message_parse_to_the_same_message(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(SERVED))
    message = data.draw(messages(proto.message_class(name), depth=4))
    parsed = proto.parse(name, proto.to_dict(message))
    assert proto.canonical(parsed) == proto.canonical(message)


def number_of(attribute: Any) -> int:
    number: int = attribute.metadata["betterproto"].number
    return number


def kind_of(meta: Any, cls: Any, names: Mapping[Any, str]) -> str:
    """Type of one value; the full name of a message."""
    if meta.proto_type != betterproto2.TYPE_MESSAGE:
        return str(meta.proto_type)
    return names[cls if meta.unwrap is None else meta.unwrap()]


def their_fields(cls: Any, names: Mapping[Any, str]) -> dict[str, tuple[object, ...]]:
    """Number, shape, oneof and types of every field, as betterproto2 itself sees them."""
    fields: dict[str, tuple[object, ...]] = {}
    for name, meta in cls._betterproto.meta_by_field_name.items():
        classes = cls._betterproto.cls_by_field
        if meta.map_meta is not None:
            key, value = meta.map_meta
            kinds: tuple[str, ...] = (key.proto_type, kind_of(value, classes[f"{name}.value"], names))
            shape = "map"
        else:
            kinds = (kind_of(meta, classes[name], names),)
            shape = "repeated" if meta.repeated else "single"
        fields["in" if name == "in_" else name] = (meta.number, shape, meta.group, *kinds)
    return fields


def our_kind(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return field.message_type.full_name
    return FieldDescriptorProto.Type.Name(FieldDescriptorProto.Type.ValueType(field.type)).removeprefix("TYPE_").lower()


def our_fields(descriptor: Descriptor) -> dict[str, tuple[object, ...]]:
    fields: dict[str, tuple[object, ...]] = {}
    for field in descriptor.fields:
        entry = proto.entry_of(field)
        oneof = None if field.containing_oneof is None else field.containing_oneof.name
        if entry is None:
            kinds: tuple[str, ...] = (our_kind(field),)
            shape = "repeated" if field.is_repeated else "single"
        else:
            kinds = (our_kind(entry.fields_by_name["key"]), our_kind(entry.fields_by_name["value"]))
            shape = "map"
        fields[field.name] = (field.number, shape, oneof, *kinds)
    return fields


TEXTS = st.text(st.sampled_from("aZ0._-*@ é\u20ac"), max_size=8)
NUMBERS = st.floats(-1e9, 1e9, allow_nan=False).map(lambda number: number + 0.0)  # without minus zero
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
SCALARS: Mapping[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "bytes": st.binary(max_size=8),
    "double": NUMBERS,
    "float": st.floats(-1e9, 1e9, allow_nan=False, width=32).map(lambda number: number + 0.0),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "string": TEXTS,
    "uint32": st.integers(0, 2**32 - 1),
    "uint64": st.integers(0, 2**64 - 1),
}


def well_known(full_name: str) -> st.SearchStrategy[Any] | None:
    """Messages of the types whose values are not free."""
    cls = proto.message_class(full_name)
    seconds = st.integers(0, 10**9)
    match full_name.removeprefix(proto.WELL_KNOWN_PACKAGE):
        case "Duration" | "Timestamp":
            # Python's own types, which betterproto2 uses here, know microseconds only.
            return st.builds(lambda s, us: cls(seconds=s, nanos=us * 1000), seconds, st.integers(0, 999_999))
        case "Struct":
            return st.dictionaries(TEXTS, JSON, max_size=3).map(lambda words: proto.parse(full_name, words))
        case "Value":
            return JSON.map(lambda word: proto.parse("google.protobuf.Struct", {"it": word}).fields["it"])
        case _:
            return None


@st.composite
def messages(draw: st.DrawFn, cls: Any, depth: int) -> Any:
    """Any message of that class, with a few fields on each of `depth` levels."""
    full_name = cls.DESCRIPTOR.full_name
    special = well_known(full_name)
    if special is not None:
        return draw(special)
    if full_name == proto.ANY:
        return proto.pack(draw(messages(proto.message_class(draw(st.sampled_from(IN_ANY))), depth - 1)))
    message = cls()
    usable = [field for field in cls.DESCRIPTOR.fields if depth > 0 or field.message_type is None]
    names = [field.name for field in usable]
    most = min(len(names), max(1, 2 * depth))
    chosen = draw(st.lists(st.sampled_from(names), min_size=most // 2, max_size=most, unique=True)) if names else []
    for name in chosen:
        draw(filled(message, cls.DESCRIPTOR.fields_by_name[name], depth))
    return message


@st.composite
def filled(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    """Set one field of the message to anything."""
    entry = proto.entry_of(field)
    if entry is not None:
        values = entry.fields_by_name["value"]
        for key in draw(st.lists(single(entry.fields_by_name["key"], depth), max_size=2, unique=True)):
            target = getattr(message, field.name)
            if values.message_type is None:
                target[key] = draw(single(values, depth))
            else:
                target[key].CopyFrom(draw(single(values, depth)))
    elif field.is_repeated:
        getattr(message, field.name).extend(draw(st.lists(single(field, depth), max_size=2)))
    elif field.message_type is None:
        setattr(message, field.name, draw(single(field, depth)))
    else:
        getattr(message, field.name).CopyFrom(draw(single(field, depth)))


def single(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """One value of the field."""
    if field.message_type is not None:
        return messages(proto.message_class(field.message_type.full_name), depth - 1)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    return SCALARS[our_kind(field)]


def their_message(classes: Mapping[str, Any], message: Any) -> Any:
    """Build the same message with envoy-data-plane's own class."""
    cls = classes[message.DESCRIPTOR.full_name]
    metas = {meta.number: (name, meta) for name, meta in cls._betterproto.meta_by_field_name.items()}
    values: dict[str, Any] = {}
    for field, value in message.ListFields():
        name, meta = metas[field.number]
        entry = proto.entry_of(field)
        if entry is not None:
            part = meta.map_meta[1]
            values[name] = {key: their_value(classes, part, item) for key, item in value.items()}
        elif field.is_repeated:
            values[name] = [their_value(classes, meta, item) for item in value]
        else:
            values[name] = their_value(classes, meta, value)
    return cls(**values)


def their_value(classes: Mapping[str, Any], meta: Any, value: Any) -> Any:
    if meta.proto_type != betterproto2.TYPE_MESSAGE:
        return value
    built = their_message(classes, value)
    return built if meta.unwrap is None else built.to_wrapped()
