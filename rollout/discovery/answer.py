"""What a source has answered, as endpoints: Consul's JSON, the http_sd format, addresses of DNS."""

import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rollout.discovery.source import Consul, Discover, HttpSd
from rollout.errors import InvalidSpec
from rollout.faults import described
from rollout.spec import Endpoint

MOST_ENDPOINTS = 10_000
SHOWN_CHARACTERS = 80
INDEX_FIRST = 1
BROADCAST = "255.255.255.255"
_PART = re.compile(r"[^/\s@]{0,200}")


@dataclass(frozen=True, slots=True)
class Answer:
    """Where a version runs by its source, in the order of addresses, each once.

    `mark` is what the source is asked with the next time, so that it says only what is new: Consul's index, an ETag.
    `fresh_s` is how long the source itself remembers this (the TTL of DNS): sooner to ask again is of no use.
    """

    endpoints: tuple[Endpoint, ...]
    mark: str = ""
    fresh_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """One backend as a source gives it; `region` and `zone` are "" where it says none."""

    host: str
    port: int
    region: str = ""
    zone: str = ""


def endpoints_at(places: Iterable[Place], discover: Discover) -> tuple[Endpoint, ...]:
    """Return the endpoints of these places, each once. Raises InvalidSpec with what is none."""
    region, zone = discover.region_zone
    found: dict[str, Endpoint] = {}
    for place in sorted(set(places), key=_order):
        here = (place.region, place.zone) if place.region or place.zone else (region, zone)
        endpoint = _endpoint(place, *here)
        found.setdefault(endpoint.address, endpoint)
        if len(found) > MOST_ENDPOINTS:
            raise InvalidSpec(f"it names more than {MOST_ENDPOINTS} backends")
    return tuple(sorted(found.values(), key=lambda each: each.address))


def _order(place: Place) -> tuple[Any, ...]:
    """One that says where it is goes before one of the same address that does not."""
    return place.host, place.port, not (place.region or place.zone), place.region, place.zone


def _endpoint(place: Place, region: str, zone: str) -> Endpoint:
    if not all(_PART.fullmatch(part) for part in (region, zone)):
        raise InvalidSpec(f"the location of {place.host} is {_short(f'{region}/{zone}')}, which is no region/zone")
    if _is_of_nobody(place.host):
        raise InvalidSpec(f"it names {_short(place.host)}, which is no address of a backend; is the answer blocked?")
    try:
        return Endpoint(host=place.host, port=place.port, region=region, zone=zone)
    except ValidationError as error:
        raise InvalidSpec(f"it names {_short(f'{place.host}:{place.port}')}: {described(error)}") from error


def _is_of_nobody(host: str) -> bool:
    """Say whether name servers answer so for a name that they block: 0.0.0.0 leads to the proxy's own host."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_unspecified or address.is_multicast or host == BROADCAST


# --- Consul ---


def consul_places(body: bytes, consul: Consul, discover: Discover) -> Iterator[Place]:
    """Yield the instances of an answer of /v1/health/service. Raises InvalidSpec."""
    document = _json(body)
    if not isinstance(document, list):
        raise InvalidSpec(f"it is no list of instances, but {_short(document)}")
    for number, entry in enumerate(document):
        try:
            yield _instance(entry, consul, discover)
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidSpec(f"[{number}] is no instance with Node and Service: {_short(entry)}") from error


def _instance(entry: Mapping[str, Any], consul: Consul, discover: Discover) -> Place:
    node, service = entry["Node"], entry["Service"]
    host, port = service.get("Address") or node["Address"], service["Port"]
    if type(port) is not int or port == 0:  # true is an int, too
        raise InvalidSpec(f"instance {_short(service.get('ID'))} has no port; register it with one")
    return Place(str(host), port, *_locality(node, service, consul, discover))


def _locality(
    node: Mapping[str, Any], service: Mapping[str, Any], consul: Consul, discover: Discover
) -> tuple[str, str]:
    """Return region and zone: by metadata, by Consul's own locality, by `location`, else the datacenter as region."""
    for meta in (service.get("Meta") or {}, node.get("Meta") or {}):
        region, zone = str(meta.get(consul.region_meta) or ""), str(meta.get(consul.zone_meta) or "")
        if region or zone:
            return region, zone
    for locality in (service.get("Locality") or {}, node.get("Locality") or {}):
        if locality.get("Region"):
            return str(locality["Region"]), str(locality.get("Zone") or "")
    return ("", "") if discover.location else (str(node.get("Datacenter") or ""), "")


def next_index(before: str, said: str) -> str:
    """Return the index to wait for the next change with, "" to be answered at once.

    One that went back is of another life of the server: it is begun anew, and one that is no positive number is none.
    """
    if not (said.isascii() and said.isdecimal()) or int(said) < INDEX_FIRST:
        return ""
    return "" if before and int(said) < int(before) else said


# --- http_sd ---


def http_sd_places(body: bytes, http_sd: HttpSd) -> Iterator[Place]:
    """Yield the targets of an answer. Raises InvalidSpec with the place of what is none."""
    document = _json(body)
    if not isinstance(document, list):
        raise InvalidSpec(f'it is no list of {{"targets": [...]}}, but {_short(document)}')
    for number, group in enumerate(document):
        yield from _group(f"[{number}]", group, http_sd)


def _group(where: str, group: object, http_sd: HttpSd) -> Iterator[Place]:
    targets = group.get("targets") if isinstance(group, dict) else None
    labels = (group.get("labels") or {}) if isinstance(group, dict) else None
    if not isinstance(targets, list) or not isinstance(labels, dict):
        raise InvalidSpec(f'{where} is no {{"targets": [...], "labels": {{...}}}}, but {_short(group)}')
    if any(labels.get(name) != value for name, value in http_sd.labels.items()):
        return
    region, _, zone = str(labels.get(http_sd.location_label) or "").partition("/")
    for number, target in enumerate(targets):
        host, colon, port = target.rpartition(":") if isinstance(target, str) else ("", "", "")
        if not (colon and host and port.isascii() and port.isdecimal() and len(port) < 6):
            raise InvalidSpec(f"{where}.targets[{number}]: {_short(target)} is no IP:PORT")
        yield Place(host.removeprefix("[").removesuffix("]"), int(port), region, zone)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidSpec("it is no JSON") from error


def _short(value: object) -> str:
    return repr(value)[:SHOWN_CHARACTERS]
