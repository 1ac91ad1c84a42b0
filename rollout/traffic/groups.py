"""A fleet in groups: proxies whose node.cluster has a folder of its own, and locations with weights of their own."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from rollout.traffic.compiler import Compiler, ServiceTraffic
from rollout.traffic.overlay import Overlay, overlay
from xds.cache import Fleet
from xds.config import BOOTSTRAP_FILES, Config, parse
from xds.errors import InvalidConfig, Problem
from xds.node import Node
from xds.resources import CLUSTERS, TYPES
from xds.snapshot import Snapshot, inconsistencies

Made = TypeVar("Made")

COMMON = ""
"""The group of all proxies whose node.cluster has no folder."""

EVERYWHERE = ""
"""The place of all proxies whose location has no weights of its own."""


@dataclass(frozen=True, slots=True)
class Files:
    """The text of envoy-configs by path: the files for all proxies, and those in a folder named after a node.cluster.

    A group's file replaces the common resources of the same type and name, and adds others.
    """

    common: Mapping[str, str]
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, group: str) -> Mapping[str, str]:
        return self.groups.get(group, {}) if group else self.common

    def names(self) -> tuple[str, ...]:
        """Return the groups, the common one first."""
        return (COMMON, *sorted(self.groups))


@dataclass(frozen=True, slots=True)
class FleetTraffic:
    """What is served of one service `everywhere`, but for some places: see Grouping."""

    everywhere: ServiceTraffic
    by_location: Mapping[str, ServiceTraffic] = field(default_factory=lambda: MappingProxyType({}))

    def at(self, place: str) -> ServiceTraffic:
        """Return what is served at a place: its own, its region's, or else that of everywhere."""
        region, _, _ = place.partition("/")
        return self.by_location.get(place) or self.by_location.get(region) or self.everywhere


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which group a node is in: `clusters` have a folder each, `places` have weights of their own.

    A place is "region/zone"; "region" for all of a region; or "region/" for who says no zone, "/" for who says nothing.
    """

    clusters: frozenset[str]
    places: frozenset[str]

    def __call__(self, node: Node) -> str:
        return _key(self.cluster(node), self.place(node))

    def cluster(self, node: Node) -> str:
        return node.cluster if node.cluster in self.clusters else COMMON

    def place(self, node: Node) -> str:
        if not self.places:
            return EVERYWHERE
        mine = (place_of(node.location), node.location, node.region)
        return next((each for each in mine if each in self.places), EVERYWHERE)


def place_of(location: str) -> str:
    """Return the place of the nodes that say just this location: of a region, those in it that say no zone."""
    return location if "/" in location else f"{location}/"


def _key(cluster: str, place: str) -> str:
    return f"{cluster}\0{place}" if place else cluster  # no folder has a NUL in its name


class FleetCompiler:
    """Compiles the splits for each group. What is equal to the last time is not made again, but is the same object."""

    def __init__(self, overlays: Mapping[str, Overlay]) -> None:
        self.overlays = overlays
        self.grouping = Grouping(frozenset(overlays) - {COMMON}, frozenset())
        self.services = frozenset(name for each in overlays.values() for name in each.services)
        self._compilers = {(group, EVERYWHERE): Compiler(each) for group, each in overlays.items()}
        self._overlay_by_version: Mapping[str, Overlay] = {}

    @property
    def common(self) -> Compiler:
        return self._compilers[COMMON, EVERYWHERE]

    def overlay_of(self, snapshot: Snapshot) -> Overlay:
        """Return the overlay that a snapshot of the last fleet was compiled from."""
        return self._overlay_by_version[snapshot.version]

    def compile(self, traffic: Mapping[str, FleetTraffic]) -> Fleet:
        """Return the fleet for these splits; each service of each overlay must have one."""
        everywhere = {name: each.everywhere for name, each in traffic.items()}
        located = {name: each for name, each in traffic.items() if each.by_location}
        places = frozenset(place for each in located.values() for place in each.by_location)
        if places != self.grouping.places:
            self.grouping = Grouping(self.grouping.clusters, places)
        compilers: dict[tuple[str, str], Compiler] = {}
        snapshots: dict[str, Snapshot] = {}
        overlay_by_version: dict[str, Overlay] = {}
        for group, each in self.overlays.items():
            variants = _variants({name: located[name] for name in located if name in each.services}, places)
            for place, (first, differing) in variants.items():
                if place == first:
                    compiler = self._compilers.get((group, place)) or copy.copy(compilers[group, EVERYWHERE])
                    compilers[group, place] = compiler  # a copy takes over all that the original has made
                    snapshots[_key(group, place)] = compiler.compile({**everywhere, **differing})
                snapshots[_key(group, place)] = snapshots[_key(group, first)]
                overlay_by_version[snapshots[_key(group, place)].version] = each
        self._compilers, self._overlay_by_version = compilers, overlay_by_version
        return Fleet(snapshots.pop(COMMON), MappingProxyType(snapshots), self.grouping)


def _variants(
    located: Mapping[str, FleetTraffic], places: Iterable[str]
) -> Mapping[str, tuple[str, Mapping[str, ServiceTraffic]]]:
    """Return for each place the first place that is served the same, and what differs there from everywhere."""
    first: dict[tuple[tuple[str, int], ...], str] = {(): EVERYWHERE}
    found: dict[str, tuple[str, Mapping[str, ServiceTraffic]]] = {EVERYWHERE: (EVERYWHERE, {})}
    distinct: dict[str, list[ServiceTraffic]] = {name: [each.everywhere] for name, each in located.items()}
    for place in sorted(places):
        differing: dict[str, ServiceTraffic] = {}
        marks: list[tuple[str, int]] = []
        for name, each in located.items():
            traffic, known = each.at(place), distinct[name]
            if traffic not in known:
                known.append(traffic)
            if traffic != each.everywhere:
                differing[name] = traffic
                marks.append((name, known.index(traffic)))
        found[place] = (first.setdefault(tuple(marks), place), differing)
    return found


def overlays(files: Files) -> tuple[Mapping[str, Overlay], tuple[Problem, ...]]:
    """Return the overlay of each group and all warnings. Raises InvalidConfig with every problem of every group."""
    configs = _configs(files)
    found = _each(files, lambda group: overlay(configs[group]))
    problems = tuple(_unequal_stats(configs, found))
    if problems:
        raise InvalidConfig(problems)
    return MappingProxyType(found), tuple(_once(files, _warnings(configs, found)))


def _warnings(configs: Mapping[str, Config], overlays: Mapping[str, Overlay]) -> Mapping[str, tuple[Problem, ...]]:
    """Return each group's warnings. That no route names a service counts only where none of any group does."""
    routed = {name for each in overlays.values() for route in each.routes for name in route.services}
    routed |= {name for each in overlays.values() for name, service in each.services.items() if service.tcp}
    found = {}
    for group, each in overlays.items():
        clusters = configs[group].of(CLUSTERS)
        fine = {clusters[name].where for name in routed & each.services.keys()}
        found[group] = tuple(warning for warning in each.warnings if warning.where not in fine)
    return found


def check_consistent(files: Files, compiler: FleetCompiler, fleet: Fleet) -> None:
    """Raise InvalidConfig when a group is served something that refers to what it is not served."""

    def check(group: str) -> None:
        for key, snapshot in {COMMON: fleet.common, **fleet.groups}.items():
            if key.partition("\0")[0] == group:
                problems = inconsistencies(snapshot, compiler.overlays[group].elsewhere)
                if problems:
                    raise InvalidConfig(problems)

    _each(files, check)


def _configs(files: Files) -> Mapping[str, Config]:
    """Parse each file once, and lay each group's files over the common ones."""
    parsed = _each(files, lambda group: parse(files.of(group)))
    common = parsed[COMMON]
    return {group: each if each is common else _over(common, each, files.of(group)) for group, each in parsed.items()}


def _over(common: Config, group: Config, paths: Iterable[str]) -> Config:
    entries = {type_: {**common.of(type_), **group.of(type_)} for type_ in TYPES}
    has_bootstrap = any(path.rpartition("/")[2] in BOOTSTRAP_FILES for path in paths)
    of_bootstrap = group if has_bootstrap else common
    return Config(MappingProxyType(entries), of_bootstrap.elsewhere, of_bootstrap.sotw)


def _each(files: Files, make: Callable[[str], Made]) -> dict[str, Made]:
    """Make one thing for each group. Raises InvalidConfig with the problems of all of them."""
    made: dict[str, Made] = {}
    reports: dict[str, tuple[Problem, ...]] = {}
    for group in files.names():
        try:
            made[group] = make(group)
        except InvalidConfig as error:
            reports[group] = error.problems
    if reports:
        raise InvalidConfig(tuple(_once(files, reports)))
    return made


def _once(files: Files, reports: Mapping[str, tuple[Problem, ...]]) -> Iterator[Problem]:
    """Yield what was found in each group; a fault that all proxies share once, without the name of a group."""
    common = frozenset(reports.get(COMMON, ()))
    for group in files.names():
        for each in reports.get(group, ()):
            if not group or each.where.startswith(tuple(files.of(group))):
                yield each
            elif each not in common:
                yield Problem(each.where, f"{each.what} (for proxies of the cluster '{group}')")


def _unequal_stats(configs: Mapping[str, Config], overlays: Mapping[str, Overlay]) -> Iterator[Problem]:
    """Yield a problem for each service that has other names in one group's stats than in another's."""
    first: dict[str, str] = {}
    for group, each in overlays.items():
        for name, service in each.services.items():
            other = first.setdefault(name, group)
            stat = overlays[other].services[name].stat
            if service.stat != stat:
                where, known = (configs[one].of(CLUSTERS)[name].where for one in (group, other))
                what = f"is '{service.stat}' in the stats of these proxies, but '{stat}' in those of others ({known});"
                what = f"{what} a rollout reads one name: give the service the same alt_stat_name, that no other has"
                yield Problem(where, what)
