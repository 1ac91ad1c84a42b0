"""Strategies as users wrote them, shown without what may be a secret, and taken back as they were shown."""

from collections.abc import Iterator, Mapping
from typing import Any

from rollout.concealed import REDACTED, host_of, http_url
from rollout.faults import Fault, Path

_KEEPERS = ("hooks", "prometheus", "web", "consul", "http_sd")  # whose `url` and `headers` may hold keys


def concealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a strategy with `[redacted]` where a header's value, or a part of a URL, may be a secret."""
    return {name: _below(name, value) for name, value in document.items()}


def _below(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_below(name, each) for each in value]
    if not isinstance(value, Mapping):
        return value
    if name in _KEEPERS:
        return {key: _shown(name, key, each) for key, each in value.items()}
    return concealed(value)


def _shown(keeper: str, key: str, value: Any) -> Any:
    if key == "headers":
        return dict.fromkeys(value, REDACTED) if isinstance(value, Mapping) else REDACTED
    return _shown_url(keeper, value) if key == "url" else value


def _shown_url(keeper: str, text: Any) -> str:
    """Of a webhook the path may be the secret; of what is read only a password and the query."""
    url = http_url(text) if isinstance(text, str) else None
    if url is None:
        return REDACTED
    plain = not url.user and not url.password and not url.query_string
    if plain and (keeper != "hooks" or url.path in ("", "/")):
        return str(text)
    path = "" if keeper == "hooks" else text.partition("?")[0].partition("://")[2].partition("/")[2].rstrip("/")
    return "/".join(part for part in (f"{url.scheme}://{host_of(url)}", path, REDACTED) if part)


def restored(shown: Any, known: Any) -> Any:
    """Return a value with what `known` has wherever it is what `concealed` shows of that."""
    return _restored(shown, concealed(known), known)


def _restored(shown: Any, hidden: Any, known: Any) -> Any:
    if isinstance(shown, str):
        return known if REDACTED in shown and shown == hidden else shown
    if isinstance(shown, Mapping) and isinstance(hidden, Mapping):
        if _leads_elsewhere(shown, known):
            return shown  # who may not read a secret may not have it sent to a host of theirs either
        return {key: _restored(each, hidden.get(key), known.get(key)) for key, each in shown.items()}
    if isinstance(shown, list) and isinstance(hidden, list):
        pairs = zip(hidden, known, strict=True)
        both = [*pairs, *[(None, None)] * max(0, len(shown) - len(hidden))]
        return [_restored(each, *pair) for each, pair in zip(shown, both, strict=False)]
    return shown


def _leads_elsewhere(shown: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Say whether what is shown asks another server than what is known."""
    asked, before = shown.get("url"), known.get("url")
    return before is not None and _server(asked) != _server(before)


def _server(text: Any) -> tuple[str, str] | None:
    url = http_url(text) if isinstance(text, str) else None
    return None if url is None else (url.scheme, host_of(url))


def unknown_secrets(document: Mapping[str, Any]) -> tuple[Fault, ...]:
    """Return where a strategy says `[redacted]`, and nothing is known of what is meant."""
    what = f"is '{REDACTED}', and no secret is known here; write the value itself"
    return tuple(Fault(path, what) for path in _places(document, ()))


def _places(value: Any, path: Path) -> Iterator[Path]:
    if isinstance(value, str):
        if REDACTED in value:
            yield path
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _places(each, (*path, key))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _places(each, (*path, number))
