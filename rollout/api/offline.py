"""The API's document without a server behind it."""

from typing import Any

from rollout.api.contract import Route
from rollout.api.openapi import document
from rollout.api.server import all_routes


class _Nobody:
    """Stands where the engine would be: routes are listed, and nothing is asked of it."""

    def __getattr__(self, name: str) -> "_Nobody":
        return self

    def __call__(self, *_given: object, **_named: object) -> "_Nobody":
        return self


def offline_document() -> dict[str, Any]:
    """Return the document that a server of this version hands out."""
    return document(offline_routes())


def offline_routes() -> tuple[Route, ...]:
    """Return the routes that a server of this version has."""
    nobody: Any = _Nobody()
    return all_routes(nobody)
