"""Long lists page by page: how much is asked for, where a page begins, and what leads to the next one.

A cursor has the key of the last item that was told, not a number of items: what comes or goes between two pages
neither shifts what follows nor tells anything twice.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from aiohttp import web

from rollout.api.contract import Query
from rollout.api.queries import asked
from rollout.errors import InvalidSpec

LIMIT, MOST = 100, 1000
PAGE = (
    Query("limit", "How many at most.", {"type": "integer", "minimum": 1, "maximum": MOST, "default": LIMIT}),
    Query("cursor", "`next` of the page before; left out: the first page.", {"type": "string", "minLength": 1}),
)
"""What every list takes."""
CURSOR_BYTES = 1000
LARGEST = 2**53
Key = tuple[str | int | float, ...]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page:
    """At most `limit` items that come after the one with this key, None: from the first one on."""

    limit: int
    after: Key | None = None


@dataclass(frozen=True, slots=True)
class Paged(Generic[Item]):
    """The items of a page, and the cursor that leads to the next one, None on the last."""

    items: Sequence[Item]
    next: str | None


def page_of(request: web.Request, *kinds: type) -> Page:
    """Return the page that is asked for; the keys of its list have parts of these types. Raises InvalidSpec."""
    given = asked(request)
    cursor = given.get("cursor")
    return Page(given.get("limit", LIMIT), None if cursor is None else key_of(cursor, kinds))


def cut(items: Sequence[Item], page: Page, key: Callable[[Item], Key]) -> Paged[Item]:
    """Return a page of items that are in memory, in the order of their keys."""
    ordered = sorted(items, key=key)
    after = page.after
    left = ordered if after is None else [each for each in ordered if key(each) > after]
    return ended(left, page, key)


def ended(found: Sequence[Item], page: Page, key: Callable[[Item], Key]) -> Paged[Item]:
    """Return a page of what follows its beginning, of which there is one more than its limit, unless it is the last."""
    items = found[: page.limit]
    return Paged(items, cursor_of(key(items[-1])) if len(found) > page.limit else None)


def cursor_of(key: Key) -> str:
    """Return what leads to the items behind the one with this key."""
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def key_of(cursor: str, kinds: Sequence[type]) -> Key:
    """Return the key that a cursor has, of parts of these types. Raises InvalidSpec."""
    wrong = InvalidSpec("cursor: is none of this list; give `next` of the page before, or leave it out")
    if len(cursor) > CURSOR_BYTES:
        raise wrong
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        found = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, binascii.Error, RecursionError) as error:
        raise wrong from error
    if not isinstance(found, list) or [type(each) for each in found] != list(kinds):
        raise wrong
    if any(isinstance(each, int) and abs(each) > LARGEST for each in found):
        raise wrong
    return tuple(found)
