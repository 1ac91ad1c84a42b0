"""All that is served at one moment: immutable, versioned by content, and able to say whether it is consistent."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from xds.errors import InvalidConfig, Problem
from xds.resources import TYPES, Resource, ResourceType

Memo = dict[object, dict[object, Any]]
"""By function and arguments what was computed from an immutable value; it lives as long as that value."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class View:
    """The resources of one type by name, sorted; `version` is a hash of `lines`, their names and versions."""

    type: ResourceType
    version: str
    resources: MappingProxyType[str, Resource]
    lines: MappingProxyType[str, bytes] = field(repr=False)
    memo: Memo = field(default_factory=dict, init=False, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One view for each type; `version` is a hash over theirs."""

    version: str
    views: Mapping[ResourceType, View]

    def get(self, type_: ResourceType, name: str) -> Resource | None:
        return self.views[type_].resources.get(name)

    def resources(self) -> Iterator[Resource]:
        for type_ in TYPES:
            yield from self.views[type_].resources.values()


def view(type_: ResourceType, resources: Iterable[Resource]) -> View:
    """Make the view of one type. Raises InvalidConfig when a name stands twice."""
    return edited(_view(type_, {}, {}), (), resources)


def edited(before: View, gone: Iterable[Resource], put: Iterable[Resource]) -> View:
    """Return a view with some resources in place of others, or itself when their content is the same.

    It equals a view that is made of all at once. Raises InvalidConfig when a name stands twice.
    """
    going = {each.name for each in gone}
    coming: dict[str, Resource] = {}
    for each in put:
        if each.name in coming or (each.name in before.resources and each.name not in going):
            where = f"{before.type} '{each.name}'"
            raise InvalidConfig((Problem(where, "the name stands twice; rename one of them"),))
        coming[each.name] = each
    lost = going - coming.keys()
    changed = {name: each for name, each in coming.items() if not _same(before.resources.get(name), each)}
    if not lost and not changed:
        return before
    resources = before.resources | changed
    lines = before.lines | {name: f"{name}\t{each.version}".encode() for name, each in changed.items()}
    for name in lost:
        del resources[name], lines[name]
    if not changed.keys() <= before.resources.keys():
        resources = dict(sorted(resources.items(), key=itemgetter(0)))
        lines = {name: lines[name] for name in resources}
    return _view(before.type, resources, lines)


def _same(one: Resource | None, other: Resource) -> bool:
    if one is None or one is other:
        return one is other
    return one.version == other.version and one.references == other.references


def _view(type_: ResourceType, resources: dict[str, Resource], lines: dict[str, bytes]) -> View:
    version = hashlib.sha256(b"\n".join(lines.values())).hexdigest()[:16]
    return View(type_, version, MappingProxyType(resources), MappingProxyType(lines))


def snapshot(resources: Iterable[Resource]) -> Snapshot:
    """Make a snapshot of these resources. Raises InvalidConfig when a name stands twice in a type."""
    by_type: dict[ResourceType, list[Resource]] = {type_: [] for type_ in TYPES}
    for resource in resources:
        by_type[resource.type].append(resource)
    return of_views(view(type_, by_type[type_]) for type_ in TYPES)


def of_views(views: Iterable[View]) -> Snapshot:
    """Make a snapshot of one view for each type."""
    by_type = {each.type: each for each in views}
    digest = hashlib.sha256("\n".join(by_type[type_].version for type_ in TYPES).encode()).hexdigest()[:16]
    return Snapshot(digest, MappingProxyType(by_type))


def inconsistencies(served: Snapshot, elsewhere: frozenset[str] = frozenset()) -> tuple[Problem, ...]:
    """Return a problem for each reference to something that is not served.

    Envoy ACKs a route to an unknown cluster and answers 503 to its requests, so only the server can refuse it.
    `elsewhere` names clusters that the proxies have from their bootstrap.
    """
    return tuple(
        Problem(
            f"{resource.type} '{resource.name}': {reference.field}",
            f"names '{reference.name}', which is not among the {reference.type}; add it there or correct the name",
        )
        for resource in served.resources()
        for reference in resource.references
        if served.get(reference.type, reference.name) is None
        and not (reference.type.word == "clusters" and reference.name in elsewhere)
    )
