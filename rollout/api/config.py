"""The configuration that is served: its files, the last refused change, and what it makes of them, without secrets."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from rollout.api.backstage import Backstage
from rollout.api.contract import Query, Route
from rollout.api.models import config as models
from rollout.api.paging import PAGE, Page, cut, page_of
from rollout.api.queries import asked
from rollout.errors import Unavailable
from rollout.loaded import LoadedConfig, LoadedFile, counted
from rollout.rights import Role
from rollout.traffic.groups import Files
from xds import proto
from xds.cache import Fleet
from xds.redaction import REDACTED, redacted
from xds.resources import BY_WORD, SECRETS, TYPES, Resource

OF_RESOURCES = (
    Query("type", "Only those of this type.", {"enum": [*BY_WORD]}),
    Query("name", "Only those of this name.", {"type": "string", "minLength": 1}),
    Query("contents", "Whether to say what they hold.", {"type": "boolean", "default": False}),
)
Served = tuple[Resource, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which resources are asked for: what the query gives, and the page of the list."""

    given: Mapping[str, Any]
    page: Page


class Configuration:
    """Handlers. What is in the files is counted once after they were read, beside the loop."""

    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage
        self._counted: tuple[Files, tuple[LoadedFile, ...]] = (Files({}), ())

    def routes(self) -> tuple[Route, ...]:
        viewer, listed = Role.VIEWER, PAGE + OF_RESOURCES
        every, parts = models.ServedConfig, models.ServedResources
        return (
            Route("GET", "/v1/config", self.config, "the configuration that is served", viewer, every),
            Route("GET", "/v1/config/resources", self.resources, "what is served", viewer, parts, query=listed),
        )

    async def config(self, _request: web.Request) -> web.Response:
        served = self._is.served
        files, known = self._counted
        if files is not served.files:
            files = served.files
            known = await asyncio.to_thread(counted, files)
            self._counted = (files, known)
        return web.json_response(_view(self._fleet(), served, known))

    async def resources(self, request: web.Request) -> web.Response:
        wanted = Wanted(asked(request), page_of(request, int, str, str))
        # A fleet in many groups has hundreds of thousands of resources, and a rollback must not wait for that.
        return web.json_response(await asyncio.to_thread(_listed, self._fleet(), wanted))

    def _fleet(self) -> Fleet:
        fleet = self._is.cache.fleet
        if fleet is None:
            raise Unavailable("no configuration is loaded yet")
        return fleet


def _listed(fleet: Fleet, wanted: Wanted) -> models.ServedResources:
    """Return a page of what is served; a fleet never changes, so this may run in a thread."""
    given = wanted.given
    found = [
        each
        for each in _served(fleet)
        if given.get("type") in (None, each[0].type.word) and given.get("name") in (None, each[0].name)
    ]
    page = cut(found, wanted.page, _key)
    return {"resources": _resources(page.items, contents=given.get("contents", False)), "next": page.next}


def _view(fleet: Fleet, served: LoadedConfig, files: Iterable[LoadedFile]) -> models.ServedConfig:
    refused = served.refused
    last: models.RefusedConfig | None = None
    if refused is not None:
        problems: list[models.ConfigProblem] = [{"where": each.where, "what": each.what} for each in refused.problems]
        last = {"at": refused.at.isoformat(), "by": refused.by, "problems": problems}
    return {
        "snapshot": fleet.common.version,
        "loaded_at": None if served.at is None else served.at.isoformat(),
        "files": [{"path": each.path, "group": each.group, "resources": each.resources} for each in files],
        "last_refused": last,
        "warnings": list(served.warnings),
    }


def _served(fleet: Fleet) -> list[Served]:
    """Return each resource with the groups that it is served to; equal ones of several groups once."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    found: dict[tuple[str, str, str], Resource] = {}
    for group, snapshot in {"": fleet.common, **fleet.groups}.items():
        for each in snapshot.resources():
            key = (each.type.word, each.name, each.version)
            found.setdefault(key, each)
            groups.setdefault(key, []).append(group.replace("\0", "@"))
    return [(each, tuple(sorted(groups[key]))) for key, each in found.items()]


def _key(served: Served) -> tuple[int, str, str]:
    resource, _ = served
    return TYPES.index(resource.type), resource.name, resource.version


def _resources(items: Iterable[Served], *, contents: bool) -> list[models.ServedResource]:
    return [
        {
            "type": each.type.word,
            "name": each.name,
            "version": each.version,
            "groups": list(groups),
            "resource": _contents(each) if contents else None,
        }
        for each, groups in items
    ]


def _contents(resource: Resource) -> dict[str, Any]:
    """Return what a resource holds, never a secret: of a secret its name alone."""
    if resource.type is SECRETS:
        return {"name": resource.name, "secret": REDACTED}
    kind = resource.type.message
    return proto.to_dict(proto.message_class(kind).FromString(redacted(kind, resource.body)))
