"""The few protobuf fields that responses are made of, encoded by hand: a resource's bytes are copied, not parsed."""

from xds.resources import Resource


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def bytes_field(number: int, value: bytes) -> bytes:
    """Encode a length-delimited field: string, bytes or message."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def text_field(number: int, value: str) -> bytes:
    """Encode a string; the default value, empty, is left out."""
    return bytes_field(number, value.encode()) if value else b""


def any_of(resource: Resource) -> bytes:
    """Encode the google.protobuf.Any that holds a resource."""
    return text_field(1, resource.type.url) + (bytes_field(2, resource.body) if resource.body else b"")


def ttl_field(resource: Resource) -> bytes:
    """Encode a resource's TTL as field `ttl` of envoy.service.discovery.v3.Resource; nothing when it has none."""
    if resource.ttl_s is None:
        return b""
    seconds, nanos = divmod(round(resource.ttl_s * 1e9), 10**9)
    parts = ((1, seconds), (2, nanos))
    return bytes_field(6, b"".join(varint(number << 3) + varint(value) for number, value in parts if value))


IDENTITY = text_field(1, "envoy-rollout")
"""The ControlPlane message: who answers."""
