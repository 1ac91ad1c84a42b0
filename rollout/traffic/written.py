"""The endpoints that envoy-configs gives a service: where they are, and whether a version may have them as its own."""

from collections.abc import Iterable, Mapping
from typing import Any as Message

from rollout.errors import Conflict
from rollout.spec import Endpoint
from rollout.traffic.assignment import LB_ENDPOINT, LOCALITY, address_of
from rollout.traffic.overlay import ServiceTemplate
from rollout.traffic.places import copied
from xds import proto


def places(templates: Iterable[ServiceTemplate]) -> Mapping[str, str]:
    """Return by address in which location it is: "region/zone", "region", or "" for none."""
    return {
        address_of(each): "/".join(part for part in (locality.locality.region, locality.locality.zone) if part)
        for template in templates
        for locality in template.assignment.endpoints
        for each in locality.lb_endpoints
    }


def own_endpoints(templates: Iterable[ServiceTemplate]) -> tuple[Endpoint, ...]:
    """Return the endpoints as a version has its own.

    Raises Conflict where groups of proxies have others, or they have what a version's own endpoints cannot have.
    """
    found = {_own(template) for template in templates}
    if len(found) > 1:
        raise Conflict("envoy-configs gives groups of proxies different endpoints; change them there, and reload")
    return tuple(sorted(found.pop(), key=lambda each: each.address))


def _own(template: ServiceTemplate) -> frozenset[Endpoint]:
    endpoints = set()
    for locality in template.assignment.endpoints:
        region, zone = locality.locality.region, locality.locality.zone
        plain = [_is_plain(each) for each in locality.lb_endpoints]
        if not all(plain) or not _is_plain_locality(locality):
            what = f"the endpoints of '{template.name}' in envoy-configs have more than an address, region and zone"
            raise Conflict(f"{what} (a weight, a priority, metadata); change them there, and reload")
        sockets = (each.endpoint.address.socket_address for each in locality.lb_endpoints)
        endpoints |= {Endpoint(host=each.address, port=each.port_value, region=region, zone=zone) for each in sockets}
    return frozenset(endpoints)


def _is_plain(endpoint: Message) -> bool:
    bare = proto.message_class(LB_ENDPOINT)()
    socket = endpoint.endpoint.address.socket_address
    bare.endpoint.address.socket_address.address = socket.address
    bare.endpoint.address.socket_address.port_value = socket.port_value
    return bool(proto.canonical(bare) == proto.canonical(endpoint))


def _is_plain_locality(locality: Message) -> bool:
    given = copied(locality)
    given.ClearField("lb_endpoints")
    bare = proto.message_class(LOCALITY)()
    bare.locality.region, bare.locality.zone = locality.locality.region, locality.locality.zone
    if not locality.HasField("locality"):
        bare.ClearField("locality")
    return bool(proto.canonical(bare) == proto.canonical(given))
