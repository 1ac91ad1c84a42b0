"""Golden cases: a folder each of envoy-configs (in.yaml), the traffic (split.yaml) and what is served then (out.yaml).

After a change that is meant, write every out.yaml anew and read the difference:

    ROLLOUT_GOLDEN=write .venv/bin/python -m pytest tests/rollout/test_golden.py
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from rollout.spec import parse_endpoint
from rollout.traffic.compiler import ServiceTraffic, VersionTraffic
from rollout.traffic.publisher import INITIAL, check, untouched
from rollout.traffic.routing import Routing
from xds import proto
from xds.resources import TYPES, Resource
from xds.snapshot import Snapshot

FOLDER = Path(__file__).parent
FIRST = ("name", "cluster_name", "@type")
CASES = tuple(sorted(path.parent.name for path in FOLDER.glob("*/in.yaml")))
DELTA_ONLY = frozenset({"virtual_hosts"})


def files(case: str) -> Mapping[str, str]:
    return {"in.yaml": (FOLDER / case / "in.yaml").read_text()}


def splits(case: str) -> dict[str, ServiceTraffic]:
    """Return the traffic of the services that split.yaml names."""
    document = yaml.safe_load((FOLDER / case / "split.yaml").read_text()) or {}
    return {
        service: ServiceTraffic(
            words["stable"],
            tuple(_version(**each) for each in words["versions"]),
            TypeAdapter(Routing).validate_python(words.get("routing", {})),
        )
        for service, words in document.items()
    }


def _version(name: str, weight_bp: int, endpoints: list[str] | None = None, **more: Any) -> VersionTraffic:
    """Read a version of split.yaml: endpoints are as `rollout deploy` takes them, without them those of in.yaml."""
    parsed = None if endpoints is None else tuple(map(parse_endpoint, endpoints))
    marks: dict[str, Any] = {key: frozenset(value) if isinstance(value, list) else value for key, value in more.items()}
    return VersionTraffic(name, weight_bp, parsed, **marks)


def compiled(case: str) -> tuple[Snapshot, tuple[str, ...]]:
    """Return the snapshot of a case and its warnings."""
    _, fleet, warnings = check(files(case))
    compiler = fleet.common
    traffic = {name: untouched(INITIAL) for name in compiler.overlay.services} | splits(case)
    return compiler.compile(traffic), tuple(map(str, warnings))


def words(snapshot: Snapshot) -> dict[str, list[dict[str, Any]]]:
    """Return a snapshot in Envoy's own words, as envoy-configs would say it."""
    return {
        type_.word: [_said(each) for each in snapshot.views[type_].resources.values()]
        for type_ in TYPES
        if snapshot.views[type_].resources
    }


def _said(resource: Resource) -> dict[str, Any]:
    words = proto.to_dict(proto.message_class(resource.type.message).FromString(resource.body))
    return words if resource.ttl_s is None else {"ttl": f"{resource.ttl_s:g}s", "resource": words}


def rendered(case: str) -> str:
    """Return what out.yaml has to say."""
    snapshot, warnings = compiled(case)
    document = {
        "version": snapshot.version,
        "warnings": list(warnings),
        **{word: _ordered(each) for word, each in words(snapshot).items()},
    }
    return yaml.dump(document, sort_keys=False, width=120, Dumper=_Plain)


def _ordered(value: Any) -> Any:
    """Sort what has no order in protobuf: it may come out otherwise in the next process."""
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value, key=lambda each: (each not in FIRST, each))}
    return [_ordered(each) for each in value] if isinstance(value, list) else value


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True
