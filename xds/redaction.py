"""Configuration without its secrets: what may be shown of a message to somebody who only looks."""

import functools
import re
from typing import Any as Message

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from xds import proto

REDACTED = "[redacted]"
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)  # in protobuf's text format; the end may be cut off
DATA_SOURCE = "envoy.config.core.v3.DataSource"
INLINE_FIELDS = ("inline_string", "inline_bytes")  # a file's name is no secret
# By name, in whatever message: Envoy's own list is an option of its fields, which the schema here does not carry.
SECRET_TEXTS = frozenset(
    {
        "access_token",
        "authorization_token",
        "backend_token",
        "google_refresh_token",
        "json_key",
        "password",
        "private_key",
        "secret",
        "secret_access_key",
        "session_token",
        "token",
    }
)
SECRET_SOURCES = SECRET_TEXTS | {
    "auth_password",
    "credentials_data_source",
    "downstream_auth_password",
    "downstream_auth_passwords",
    "keys",
    "local_jwks",
    "pkcs12",
    "secret_data",
    "secrets",
    "users",
    "web_identity_token_data_source",
}
SECRET_FIELDS = frozenset(
    {
        "envoy.extensions.filters.http.api_key_auth.v3.Credential.key",
        "envoy.extensions.transport_sockets.tls.v3.PrivateKeyProvider.typed_config",
    }
)


def without_values(text: str) -> str:
    """Leave out the quoted values of a message that is printed in a text: Envoy prints whole what it refuses."""
    return QUOTED.sub('"..."', text)


def redacted(message_name: str, body: bytes) -> bytes:
    """Return a message's bytes with every secret in it replaced; the very same bytes when it holds none."""
    cls = proto.message_class(message_name)
    if not risky(cls.DESCRIPTOR):
        return body
    message = cls.FromString(body)
    return proto.canonical(message) if redact(message) else body


def redact(message: Message) -> bool:
    """Replace the secrets in a message, and in whatever an Any in it holds; return whether there were any."""
    if message.DESCRIPTOR.full_name == proto.ANY:
        return _redact_any(message)
    found = False
    risks = risky(message.DESCRIPTOR)
    for field, value in message.ListFields():
        if field.number not in risks:
            continue
        if field.message_type is None or field.full_name in SECRET_FIELDS:
            _hide(message, field)
            found = True
            continue
        change = _hide_inline if _is_secret(field) else redact
        for part in proto.submessages(field, value):
            found |= change(part)
    return found


def _redact_any(holder: Message) -> bool:
    inner = proto.unpack(holder)
    if inner is None or not redact(inner):
        return False
    holder.value = proto.canonical(inner)
    return True


def _hide(message: Message, field: FieldDescriptor) -> None:
    if field.message_type is not None:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, REDACTED if field.type == FieldDescriptor.TYPE_STRING else REDACTED.encode())


def _hide_inline(source: Message) -> bool:
    chosen = source.WhichOneof("specifier")
    if chosen not in INLINE_FIELDS:
        return False
    setattr(source, chosen, REDACTED if chosen == "inline_string" else REDACTED.encode())
    return True


@functools.cache
def risky(descriptor: Descriptor) -> frozenset[int]:
    """Return the fields of a type of message in which a secret may stand, however deep: no other is looked at."""
    return frozenset(field.number for field in descriptor.fields if _may_hold(field, frozenset({descriptor.full_name})))


def _may_hold(field: FieldDescriptor, above: frozenset[str]) -> bool:
    if _is_secret(field):
        return True
    kind = _map_value(field) or field.message_type
    if kind is None or kind.full_name in above:
        return False
    if kind.full_name == proto.ANY:
        return True
    return any(_may_hold(below, above | {kind.full_name}) for below in kind.fields)


def _is_secret(field: FieldDescriptor) -> bool:
    if field.full_name in SECRET_FIELDS:
        return True
    kind = _map_value(field) or field.message_type
    if kind is not None:
        return kind.full_name == DATA_SOURCE and field.name in SECRET_SOURCES
    is_text = field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES) and not field.is_repeated
    return is_text and field.name in SECRET_TEXTS


def _map_value(field: FieldDescriptor) -> Descriptor | None:
    """Return the type of a map's values, None for a field that is no map of messages."""
    entry = proto.entry_of(field)
    return None if entry is None else entry.fields_by_name["value"].message_type
