"""What a user wrote that may hold a secret: URLs and headers, how they are checked, and shown without it."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, PlainSerializer, SerializationInfo
from yarl import URL

WITH_SECRETS = "with secrets"
"""The context to dump a strategy in as a whole; in any other headers, passwords and queries of URLs are left out."""
REDACTED = "[redacted]"
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def header_values(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers themselves. Raises ValueError where one is none."""
    for name, value in headers.items():
        if _HEADER_NAME.fullmatch(name) is None or not value.isprintable():
            raise ValueError(f"{name!r} is no header, or its value is more than one line of text")
    return headers


def http_url(text: str) -> URL | None:
    """Return the URL of an HTTP server, None where the text is no such."""
    try:
        url = URL(text)
    except ValueError:
        return None
    return url if url.scheme in ("http", "https") and url.host and not url.fragment else None


def host_of(url: URL) -> str:
    """Return HOST[:PORT]: what may always be told of a URL."""
    host, port = url.host or "", "" if url.is_default_port() else f":{url.port}"
    return f"{f'[{host}]' if ':' in host else host}{port}"


def _shown_url(url: str, info: SerializationInfo) -> str:
    """Without a password, and without the query, which may have a key in it."""
    if info.context == WITH_SECRETS:
        return url
    scheme, _, rest = url.partition("?")[0].partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def _shown_host(url: str, info: SerializationInfo) -> str:
    """Without its path, too: of webhooks of chats that is the secret."""
    if info.context == WITH_SECRETS:
        return url
    known = URL(url)
    shown = f"{known.scheme}://{host_of(known)}"
    return shown if known.path in ("", "/") else f"{shown}/{REDACTED}"


def _shown_headers(headers: Mapping[str, str], info: SerializationInfo) -> Mapping[str, str]:
    return headers if info.context == WITH_SECRETS else dict.fromkeys(headers, REDACTED)


Template = Annotated[str, Field(min_length=1, max_length=10_000)]
Address = Annotated[Template, Field(repr=False), PlainSerializer(_shown_url)]
SecretAddress = Annotated[Template, PlainSerializer(_shown_host)]
Headers = Annotated[Mapping[str, str], Field(repr=False, max_length=20), PlainSerializer(_shown_headers)]
