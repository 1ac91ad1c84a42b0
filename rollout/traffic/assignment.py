"""Load assignments in pieces, an endpoint each: when one changes, it alone is encoded again."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import Any as Message

from rollout.spec import Endpoint
from rollout.traffic.places import copied
from rollout.traffic.splice import fields
from xds import proto
from xds.wire import bytes_field, text_field

LOCALITY = "envoy.config.endpoint.v3.LocalityLbEndpoints"
LB_ENDPOINT = "envoy.config.endpoint.v3.LbEndpoint"
UNHEALTHY, DRAINING = 2, 3  # envoy.config.core.v3.HealthStatus
NAME_FIELD, LOCALITIES_FIELD = 1, 2  # of a ClusterLoadAssignment
LB_ENDPOINTS_FIELD = 2  # of a LocalityLbEndpoints
GONE = b""

Place = tuple[str, str, str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The endpoints of one LocalityLbEndpoints, and the bytes that it holds before and after them.

    `endpoints` has the bytes of each as a field there, GONE where one is left out; `by_address` says which are those
    of a HOST:PORT ("" for what is no socket address). `counted`: their number is the locality's weight.
    """

    place: Place
    before: bytes
    after: bytes
    endpoints: tuple[bytes, ...]
    by_address: Mapping[str, tuple[int, ...]]
    counted: bool


def address_of(endpoint: Message) -> str:
    """Return an LbEndpoint's address as HOST:PORT, as Envoy's stats have it, or "" when it is no socket address."""
    if not endpoint.endpoint.address.HasField("socket_address"):
        return ""
    socket = endpoint.endpoint.address.socket_address
    host = f"[{_shortest(socket.address)}]" if ":" in socket.address else socket.address
    return f"{host}:{socket.port_value}"


def _shortest(address: str) -> str:
    """Return an IPv6 address as it is written in short; what is none, Envoy refuses."""
    try:
        return str(IPv6Address(address))
    except ValueError:
        return address


def policy(assignment: Message) -> bytes:
    """Return what an assignment holds besides its name and endpoints, which come before it."""
    bare = copied(assignment)
    bare.ClearField("cluster_name")
    bare.ClearField("endpoints")
    return proto.canonical(bare)


def written(assignment: Message) -> tuple[Group, ...]:
    """Take the endpoints of an assignment to pieces, each locality with all that it holds."""
    return tuple(_written(locality) for locality in assignment.endpoints)


def deployed(endpoints: Iterable[Endpoint]) -> tuple[Group, ...]:
    """Return these endpoints grouped by locality, whatever their order."""
    by_locality: dict[tuple[str, str], list[Endpoint]] = {}
    for endpoint in endpoints:
        by_locality.setdefault((endpoint.region, endpoint.zone), []).append(endpoint)
    return tuple(_deployed(*where, group) for where, group in sorted(by_locality.items()))


def encoded(name: str, groups: Iterable[Group], policy: bytes) -> bytes:
    """Return the canonical bytes of a ClusterLoadAssignment."""
    localities = (b"".join((group.before, *group.endpoints, group.after)) for group in groups)
    return b"".join(
        (text_field(NAME_FIELD, name), *(bytes_field(LOCALITIES_FIELD, each) for each in localities), policy)
    )


def without(groups: Iterable[Group], addresses: AbstractSet[str]) -> tuple[Group, ...]:
    """Leave out the endpoints at these addresses; a locality stays, but for a counted one that is empty then."""
    left = [(group, _without(group, addresses)) for group in groups]
    return tuple(
        _counted(after) if after.counted and after is not before else after
        for before, after in left
        if after.by_address or not after.counted
    )


def marked(groups: Iterable[Group], addresses: AbstractSet[str], status: int = DRAINING) -> tuple[Group, ...]:
    """Mark the endpoints at these addresses: DRAINING, or another health status."""
    return tuple(_marked(group, addresses, status) for group in groups)


def drained(groups: Iterable[Group]) -> tuple[Group, ...]:
    """Mark all endpoints as DRAINING."""
    return tuple(map(_drained, groups))


def joined(groups: tuple[Group, ...], leaving: Iterable[Group]) -> tuple[Group, ...]:
    """Add to an assignment's endpoints those of another at addresses that are new, DRAINING, each to its locality."""
    known = frozenset(address for group in groups for address in group.by_address)
    by_place = {group.place: index for index, group in enumerate(groups)}
    together = list(groups)
    for group in leaving:
        new = _drained(_without(group, known))
        index = by_place.get(group.place)
        if index is not None:
            together[index] = _longer(together[index], new)
        elif new.by_address:
            together.append(new)
    return tuple(together)


def _written(locality: Message) -> Group:
    place = (locality.locality.region, locality.locality.zone, locality.locality.sub_zone, locality.priority)
    bare = copied(locality)
    bare.ClearField("lb_endpoints")
    body = proto.canonical(bare)
    split = next((start for number, start, _ in fields(body) if number > LB_ENDPOINTS_FIELD), len(body))
    addresses = [address_of(each) for each in locality.lb_endpoints]
    endpoints = tuple(_field_of(each) for each in locality.lb_endpoints)
    return Group(place, body[:split], body[split:], endpoints, _positions(addresses), counted=False)


def _deployed(region: str, zone: str, group: Iterable[Endpoint]) -> Group:
    locality = proto.message_class(LOCALITY)()
    locality.locality.region, locality.locality.zone = region, zone
    endpoint = proto.message_class(LB_ENDPOINT)()
    socket = endpoint.endpoint.address.socket_address
    addresses, endpoints = [], []
    for each in sorted(group, key=lambda each: each.address):
        socket.address, socket.port_value = each.host, each.port
        addresses.append(each.address)
        endpoints.append(_field_of(endpoint))
    place = (region, zone, "", 0)
    bare = Group(place, proto.canonical(locality), b"", tuple(endpoints), _positions(addresses), counted=True)
    return _counted(bare)


def _field_of(endpoint: Message) -> bytes:
    return bytes_field(LB_ENDPOINTS_FIELD, proto.canonical(endpoint))


def _positions(addresses: Iterable[str]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for position, address in enumerate(addresses):
        found[address] = (*found.get(address, ()), position)
    return found


def _counted(group: Group) -> Group:
    """Return the group with its weight: without one locality-weighted balancing sends nothing to it."""
    locality = proto.message_class(LOCALITY)()
    locality.load_balancing_weight.value = len(group.endpoints) - group.endpoints.count(GONE)
    return replace(group, after=proto.canonical(locality))


def _without(group: Group, addresses: AbstractSet[str]) -> Group:
    lost = [address for address in addresses if address in group.by_address]
    if not lost:
        return group
    endpoints, by_address = list(group.endpoints), dict(group.by_address)
    for address in lost:
        for position in by_address.pop(address):
            endpoints[position] = GONE
    return replace(group, endpoints=tuple(endpoints), by_address=by_address)


def _marked(group: Group, addresses: AbstractSet[str], status: int) -> Group:
    endpoints = list(group.endpoints)
    for address in addresses:
        for position in group.by_address.get(address, ()):
            endpoints[position] = _with_status(endpoints[position], status)
    return replace(group, endpoints=tuple(endpoints))


def _drained(group: Group) -> Group:
    """Mark all at once: they are one piece then, which is as good, for nothing is to be changed in them any more."""
    return replace(group, endpoints=(_with_status(b"".join(group.endpoints), DRAINING),))


def _with_status(endpoints: bytes, status: int) -> bytes:
    """Return these fields of a LocalityLbEndpoints with this health status."""
    locality = proto.message_class(LOCALITY).FromString(endpoints)
    for each in locality.lb_endpoints:
        each.health_status = status
    return proto.canonical(locality)


def _longer(group: Group, more: Group) -> Group:
    by_address = {**group.by_address, **dict.fromkeys(more.by_address, ())}  # known, but nothing to be changed any more
    return replace(group, endpoints=(*group.endpoints, *more.endpoints), by_address=by_address)
