"""Text of envoy-configs -> Envoy's messages by type; every fault names file, resource and field path."""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any as Message

import yaml

from xds import proto
from xds.errors import InvalidConfig, Problem
from xds.resources import BY_WORD, SECRETS, TYPES, ResourceType, is_eds_type, walk

BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap"
BOOTSTRAP_FILES = frozenset({"bootstrap.yaml", "bootstrap.yml", "bootstrap.json"})
RESOURCE = "envoy.service.discovery.v3.Resource"
SHORTEST_TTL_S = 1.0
ROUTER = "envoy.extensions.filters.http.router.v3.Router"
USUAL_DEPTH = 100  # of mappings and lists in each other
VALUES_LIMIT = 1_000_000  # of a file with aliases: nine of nine of nine ... are soon a billion


@dataclass(frozen=True, slots=True)
class Entry:
    """One resource as its owner wrote it, and where; `ttl_s` None: it lives until it is removed."""

    message: Message
    where: str
    ttl_s: float | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """A fleet's configuration: entries by type and name.

    `elsewhere` names the clusters of the proxies' bootstrap; `sotw` says that by it they follow ADS without delta.
    """

    entries: Mapping[ResourceType, Mapping[str, Entry]]
    elsewhere: frozenset[str] = field(default_factory=frozenset)
    sotw: bool = False

    def of(self, type_: ResourceType) -> Mapping[str, Entry]:
        return self.entries[type_]


def parse(files: Mapping[str, str]) -> Config:
    """Parse the text of files by name into one Config.

    Each file is a mapping of lists named as in BY_WORD; bootstrap.yaml is not served, only its clusters' names count.
    Raises InvalidConfig with every problem found.
    """
    problems: list[Problem] = []
    entries: dict[ResourceType, dict[str, Entry]] = {type_: {} for type_ in TYPES}
    elsewhere: set[str] = set()
    sotw = False
    for name, text in sorted(files.items()):
        try:
            document = load(name, text)
            if name.rpartition("/")[2] in BOOTSTRAP_FILES:
                bootstrap = _bootstrap(name, document)
                elsewhere |= {cluster.name for cluster in bootstrap.static_resources.clusters}
                ads = bootstrap.dynamic_resources.ads_config
                sotw |= ads.ByteSize() > 0 and ads.api_type in (ads.GRPC, ads.AGGREGATED_GRPC)
            else:
                problems += _add_file(entries, name, document)
        except InvalidConfig as error:
            problems += error.problems
    problems += [problem for type_ in TYPES for entry in entries[type_].values() for problem in _faults(entry)]
    if not problems and not any(entries.values()):
        # Served, it would delete every cluster of the fleet; a file that is being written is empty for a moment.
        problems.append(Problem(", ".join(sorted(files)) or "no file", "holds nothing to serve"))
    if problems:
        raise InvalidConfig(tuple(problems))
    return Config(MappingProxyType(entries), frozenset(elsewhere), sotw)


def load(name: str, text: str) -> Mapping[str, object]:
    """Read one file, JSON by its name or else YAML 1.2, with a mapping at the top. Raises InvalidConfig."""
    document = _load_json(name, text) if name.endswith(".json") else _load_yaml(name, text)
    if document is None:
        return {}
    if not isinstance(document, dict):
        what = f"must be a mapping of lists ({', '.join(BY_WORD)}), but is a {type(document).__name__}"
        raise InvalidConfig((Problem(name, what),))
    return document


def _load_yaml(name: str, text: str) -> object:
    with contextlib.suppress(_Unusual, yaml.YAMLError, ValueError):  # then _Loader judges it
        return _read_usual(text)
    try:
        document = _read_unusual(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise InvalidConfig((Problem(where, f"is no YAML: {_reason(error)}"),)) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidConfig((Problem(name, f"is no YAML: {error}"),)) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # their texts quote the value, a secret maybe
        what = "is no YAML: a value does not fit its tag (such as !!int), or is a number too large to read"
        raise InvalidConfig((Problem(name, what),)) from error
    return document


def _read_unusual(text: str) -> object:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        _size(node, {})  # before a value is made: `<<: [*a, *a]` grows while it is put in place
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: Message, sizes: dict[int, int]) -> int:
    """Return how many values there are, aliases written out. Raises YAMLError for more than anybody could read."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = VALUES_LIMIT  # of an alias of what it stands in
        parts = (value for _, value in node.value) if isinstance(node, yaml.MappingNode) else node.value
        sizes[id(node)] = 1 + sum(_size(each, sizes) for each in parts)
    if sizes[id(node)] > VALUES_LIMIT:
        raise yaml.YAMLError(f"its aliases stand for more than {VALUES_LIMIT:,} values; write fewer")
    return sizes[id(node)]


def _reason(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem or error.context)
    if problem.startswith("could not determine a constructor for the tag"):  # goes on with the tag, a secret maybe
        return "there is a tag that is not known; put a text that begins with ! in quotes"
    return problem


def _load_json(name: str, text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"{name}:{error.lineno}:{error.colno}"
        raise InvalidConfig((Problem(where, f"is no JSON: {error.msg}"),)) from error
    except (ValueError, RecursionError) as error:
        raise InvalidConfig((Problem(name, f"is no JSON: {error}"),)) from error


def _object(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key '{key}' stands twice")
        found[key] = value
    return found


def _bootstrap(name: str, document: Mapping[str, object]) -> Message:
    try:
        return proto.parse(BOOTSTRAP, document)
    except proto.ParseFailure as error:
        raise InvalidConfig((Problem(f"{name}: {error.path}".rstrip(": "), error.what),)) from error


def _add_file(
    entries: dict[ResourceType, dict[str, Entry]], name: str, document: Mapping[str, object]
) -> Iterator[Problem]:
    for word, items in document.items():
        type_ = BY_WORD.get(word)
        if type_ is None:
            yield Problem(f"{name}: {word}", f"is no list that is served; there are {', '.join(BY_WORD)}")
        elif not isinstance(items, list):
            if items is not None:
                yield Problem(f"{name}: {word}", f"must be a list of {type_.message}, but is a {type(items).__name__}")
        else:
            for index, item in enumerate(items):
                yield from _add_item(entries[type_], type_, f"{name}: {word}[{index}]", item)


def _add_item(known: dict[str, Entry], type_: ResourceType, where: str, item: object) -> Iterator[Problem]:
    """Add an item: a resource, or one with its TTL as the protocol wraps it, `{ttl: 30s, resource: {...}}`."""
    if not isinstance(item, dict):
        yield Problem(where, f"must be a mapping with the fields of {type_.message}")
        return
    wrapped = isinstance(item.get("resource"), dict)
    others = [key for key in item if key not in ("ttl", "resource")] if wrapped else []
    if others:
        what = f"has '{others[0]}' beside `resource`, where only `ttl` may stand; put it into `resource`"
        yield Problem(where, what)
    ttl, item = (item.get("ttl"), item["resource"]) if wrapped else (None, item)
    label = item.get(type_.name_field)
    where = f"{where} '{label}'" if label and isinstance(label, str) else where
    try:
        message = proto.parse(type_.message, item)
        ttl_s = None if ttl is None else proto.parse(RESOURCE, {"ttl": ttl}).ttl.ToNanoseconds() / 1e9
    except proto.ParseFailure as error:
        what = error.discreet if type_ is SECRETS else error.what
        yield Problem(f"{where}: {error.path}".rstrip(": "), what)
        return
    if ttl_s is not None and ttl_s < SHORTEST_TTL_S:
        yield Problem(f"{where}: ttl", f"{ttl_s:g}s is below {SHORTEST_TTL_S:g}s; it must leave time for heartbeats")
    name = getattr(message, type_.name_field)
    if not name:
        yield Problem(where, f"has no `{type_.name_field}`; every one of the {type_} needs one")
    elif name in known:
        yield Problem(where, f"stands already in {known[name].where}; remove or rename one of them")
    else:
        known[name] = Entry(message, where, ttl_s)


def _faults(entry: Entry) -> Iterator[Problem]:
    """Yield what Envoy would ACK though it cannot work, or reject only when it is too late."""
    for path, part in walk(entry.message):
        where = f"{entry.where}: {path}" if path else entry.where
        match part.DESCRIPTOR.full_name:
            case "envoy.config.cluster.v3.Cluster":
                if is_eds_type(part):
                    yield from _source_fault(
                        f"{where}: eds_cluster_config.eds_config", part.eds_cluster_config.eds_config
                    )
            case "envoy.extensions.filters.network.http_connection_manager.v3.Rds":
                yield from _source_fault(f"{where}.config_source", part.config_source)
            case "envoy.config.route.v3.WeightedCluster":
                weights = [cluster.weight.value for cluster in part.clusters]
                if sum(weights) == 0:
                    what = f"weights {weights} sum to 0; give at least one a weight above 0"
                    yield Problem(f"{where}.clusters", what)
            case "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager":
                yield from _router_fault(where, part)


def _source_fault(where: str, source: Message) -> Iterator[Problem]:
    if source.WhichOneof("config_source_specifier") is None:
        yield Problem(where, "must name its source, such as {ads: {}, resource_api_version: V3}")


def _router_fault(where: str, manager: Message) -> Iterator[Problem]:
    """Envoy ACKs a connection manager without a router at the end, and every connection to it then hangs."""
    filters = manager.http_filters
    if not filters:
        yield Problem(f"{where}.http_filters", "is empty; the last HTTP filter must be envoy.filters.http.router")
        return
    last = filters[-1]
    if last.WhichOneof("config_type") != "config_discovery" and not last.typed_config.type_url.endswith(f"/{ROUTER}"):
        what = f"the last HTTP filter is '{last.name}', but must be envoy.filters.http.router with its typed_config"
        yield Problem(f"{where}.http_filters[{len(filters) - 1}]", what)


class _Unusual(Exception):
    """YAML that is left to _Loader."""


def _read_usual(text: str) -> object:
    """Read YAML as _Loader does at a sixth of its cost, for no node is made of each value.

    Raises _Unusual for anchors, aliases, tags, merge keys, keys that are no text or stand twice, and deep nesting.
    """
    loader = _Loader(text)
    try:
        loader.get_event()
        if type(loader.get_event()) is yaml.StreamEndEvent:
            return None
        document = _value(loader, loader.get_event(), {}, USUAL_DEPTH)
        loader.get_event()
        if type(loader.get_event()) is not yaml.StreamEndEvent:
            raise _Unusual
        return document
    finally:
        loader.dispose()


def _value(loader: Message, event: Message, known: dict[str, object], depth: int) -> object:
    kind = type(event)
    if kind is yaml.AliasEvent or event.tag is not None or event.anchor is not None or depth == 0:
        raise _Unusual
    if kind is yaml.ScalarEvent:
        return _scalar(loader, event.value, known) if event.implicit[0] else event.value
    if kind is yaml.SequenceStartEvent:
        items = []
        while type(event := loader.get_event()) is not yaml.SequenceEndEvent:
            items.append(_value(loader, event, known, depth - 1))
        return items
    mapping: dict[object, object] = {}
    while type(event := loader.get_event()) is not yaml.MappingEndEvent:
        key = _value(loader, event, known, depth - 1)
        if type(key) is not str or key in mapping:
            raise _Unusual
        mapping[key] = _value(loader, loader.get_event(), known, depth - 1)
    return mapping


def _scalar(loader: Message, text: str, known: dict[str, object]) -> object:
    if text not in known:
        node = yaml.ScalarNode(loader.resolve(yaml.ScalarNode, text, (True, False)), text)
        if node.tag == "tag:yaml.org,2002:merge":
            raise _Unusual
        known[text] = loader.construct_object(node)
    return known[text]


class _Loader(yaml.CSafeLoader):
    """YAML 1.2's core schema, so `on` and `12:30` are strings, and a key that stands twice is an error."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's way

    def flatten_mapping(self, node: Message) -> None:
        """Look for doubles before `<<` is put in place, for then what it brings may stand twice."""
        seen: set[str] = set()
        for key, _ in () if hasattr(node, "flat") else node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    what = f"the key '{key.value}' stands twice"
                    raise yaml.constructor.ConstructorError(None, None, what, key.start_mark)
                seen.add(key.value)
        node.flat = True
        super().flatten_mapping(node)


def _core_int(loader: Message, node: Message) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text.startswith(("0x", "0o")) else int(text)


_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _core_int)
