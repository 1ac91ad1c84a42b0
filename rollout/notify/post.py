"""Apprise, the only door to it: says whether an address is one, shows it without its secrets, and sends a message."""

import logging
import re
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import apprise

from rollout.concealed import REDACTED
from rollout.errors import InvalidSpec, Unavailable
from rollout.happenings import Severity
from rollout.notify.words import Message

SAID_CHARACTERS = 300
SECRET_CHARACTERS = 4  # what is shorter is no secret, and stands in every other word
_HOSTED = frozenset({"json", "jsons", "xml", "xmls", "form", "forms", "gotify", "gotifys"})  # their host is a host
_TYPES = {
    Severity.INFO: apprise.NotifyType.INFO,
    Severity.NOTICE: apprise.NotifyType.INFO,
    Severity.WARNING: apprise.NotifyType.WARNING,
    Severity.CRITICAL: apprise.NotifyType.FAILURE,
}


def shown(url: str) -> str:
    """Return what may be told of an address: its scheme, and its host where that is no secret."""
    scheme, _, rest = url.partition("://")
    if not rest or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme, re.IGNORECASE):
        return REDACTED
    if scheme.lower() not in _HOSTED:
        return f"{scheme}://{REDACTED}"
    netloc, *others = re.split(r"[/?#]", rest, maxsplit=1)
    if "@" in "".join(others):  # of a password with such a sign in it the beginning would be the host
        return f"{scheme}://{REDACTED}"
    return f"{scheme}://{netloc.rpartition('@')[2]}/{REDACTED}"


def check(url: str) -> None:
    """Raise InvalidSpec where Apprise cannot send to an address, or would not check who is there."""
    target = _service(url)
    if target is None:
        what = f"{shown(url)} is no address that Apprise knows, or it lacks a part"
        raise InvalidSpec(f"{what}; write it as https://github.com/caronc/apprise/wiki has it, one address only")
    if not target.verify_certificate:
        raise InvalidSpec(f"{shown(url)} has `verify=no`, which sends to anybody; leave it out")


def send(url: str, message: Message) -> None:
    """Tell a target, and return when it has taken it; it may hang. Raises Unavailable."""
    said: list[str] = []
    sender = apprise.Apprise(asset=_asset())
    target = _service(url)
    if target is None:
        raise Unavailable(f"{shown(url)} is no address that Apprise knows")
    sender.add(target)
    result = sender.notify(
        body=message.body,
        title=message.title,
        notify_type=_TYPES[message.severity],
        body_format=apprise.NotifyFormat.TEXT,
        log_callback=lambda entry, _service: said.append(entry.message),
        log_level=logging.WARNING,
    )
    if not result:
        words = " ".join(" ".join(said).split()) or "it did not take the message"
        raise Unavailable(f"{shown(url)}: {concealed(words, url)[:SAID_CHARACTERS]}")


def concealed(text: str, url: str) -> str:
    """Return a text without anything of an address that may be a secret."""
    for secret in _secrets(url):
        text = text.replace(secret, REDACTED)
    return text


def _secrets(url: str) -> tuple[str, ...]:
    """Return all parts of an address but its host, as they are written and as they are meant, the longest first."""
    try:
        parts = urlsplit(url)
        user = [parts.username or "", parts.password or ""]
    except ValueError:
        return (url,)
    kept = {parts.hostname or ""} if parts.scheme.lower() in _HOSTED else set()
    words = [url, parts.netloc, parts.hostname or "", *user, *parts.path.split("/"), *parts.query.split("&")]
    words += [value for _, value in parse_qsl(parts.query)]
    found = {each for word in words for each in (word, unquote(word)) if len(each) >= SECRET_CHARACTERS} - kept
    if parts.scheme.lower() in _HOSTED:
        found -= {parts.netloc.rpartition("@")[2]}
    return tuple(sorted(found, key=len, reverse=True))


def _service(url: str) -> Any:
    return apprise.Apprise.instantiate(url, asset=_asset())


@cache
def _asset() -> apprise.AppriseAsset:
    # Its plugins are those of the package: none is loaded from the user's home. Nothing is kept on disk. With a timeout
    # of its own it would call targets in threads of a pool, which are joined at exit: one that hangs would hold it up.
    name = "envoy-rollout"
    return apprise.AppriseAsset(app_id=name, app_desc=name, async_mode=False, service_timeout=0, plugin_paths=[])
