"""Asks DNS for the addresses of a name: A and AAAA records, or SRV records and then their targets."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

from rollout.discovery.answer import MOST_ENDPOINTS, Answer, Place, endpoints_at
from rollout.discovery.source import Discover, Dns, RecordType
from rollout.errors import InvalidSpec, Unavailable

AT_ONCE = 20  # targets of SRV records that are asked for
UDP_BYTES = 1232  # what passes every network in one piece; more comes over TCP
A, AAAA, SRV = dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.SRV
_Target = tuple[tuple[str, ...], float]  # the addresses of a host, and how long they may be remembered
_TYPES = {RecordType.A: (A,), RecordType.AAAA: (AAAA,), RecordType.BOTH: (A, AAAA)}


@dataclass(frozen=True, slots=True)
class _Found:
    """Hosts with the port each has by its record, and how long this may be remembered."""

    hosts: tuple[tuple[str, int], ...]
    ttl_s: float


async def ask(source: Dns, discover: Discover) -> Answer:
    """Return the addresses. Raises Unavailable, or InvalidSpec for too many."""
    timeout_s = discover.timeout.total_seconds()
    try:
        async with asyncio.timeout(timeout_s):
            found = await _ask(source, timeout_s)
    except (TimeoutError, dns.resolver.LifetimeTimeout) as error:
        raise Unavailable(f"no answer for {source.name} from {_whom(source)} within {timeout_s:g} s") from error
    places = (Place(host, port) for host, port in found.hosts)
    return Answer(endpoints_at(places, discover), fresh_s=found.ttl_s)


async def _ask(source: Dns, timeout_s: float) -> _Found:
    try:
        resolver = await asyncio.to_thread(_resolver, source, timeout_s)
        if source.type is RecordType.SRV:
            return await _services(resolver, dns.name.from_text(source.name))
        return await _addresses(resolver, dns.name.from_text(source.name), source.port or 0, _TYPES[source.type])
    except dns.resolver.LifetimeTimeout:
        raise
    except dns.resolver.NXDOMAIN as error:
        raise Unavailable(f"{source.name} does not exist, says {_whom(source)} (NXDOMAIN)") from error
    except (dns.exception.DNSException, OSError, ValueError) as error:
        raise Unavailable(f"no answer for {source.name} from {_whom(source)}: {_words(error)}") from error


def _resolver(source: Dns, timeout_s: float) -> dns.asyncresolver.Resolver:
    """Make what asks: the servers in the host's file are read anew, for that may have changed."""
    resolver = dns.asyncresolver.Resolver(configure=not source.server)
    if source.server:
        host, _, port = source.server.rpartition(":")
        resolver.nameservers = [dns.nameserver.Do53Nameserver(host.strip("[]"), int(port))]
    resolver.lifetime = timeout_s
    resolver.timeout = max(0.1, timeout_s / 3)  # one lost packet must not be the end
    resolver.use_edns(0, 0, UDP_BYTES)
    return resolver


async def _resolve(
    resolver: dns.asyncresolver.Resolver, name: dns.name.Name, kind: dns.rdatatype.RdataType
) -> dns.resolver.Answer:
    found = await resolver.resolve(name, kind, raise_on_no_answer=False, search=False)
    if found.response.flags & dns.flags.TC:  # over TCP, where no other way is left to have the rest
        raise Unavailable(f"the answer for {name} is cut off, over TCP, too")
    return found


async def _addresses(
    resolver: dns.asyncresolver.Resolver, name: dns.name.Name, port: int, kinds: Sequence[dns.rdatatype.RdataType]
) -> _Found:
    answers = [await _resolve(resolver, name, kind) for kind in kinds]
    hosts = tuple((record.address, port) for answer in answers for record in answer.rrset or ())
    return _Found(hosts, _ttl_s(answers))


async def _services(resolver: dns.asyncresolver.Resolver, name: dns.name.Name) -> _Found:
    """Follow SRV records: those of the lowest priority that has an address, for the others stand in for these."""
    answer = await _resolve(resolver, name, SRV)
    records = [record for record in answer.rrset or () if record.target != dns.name.root]  # the root: there is none
    # What a host has is asked for anew each time, so of all this the SRV records live longest.
    ttl_s, hosts = _ttl_s([answer]), tuple[tuple[str, int], ...]()
    for priority in sorted({record.priority for record in records}):
        found = await _preferred(resolver, answer, [each for each in records if each.priority == priority])
        hosts, ttl_s = found.hosts, min(ttl_s, found.ttl_s)
        if hosts:
            break
    return _Found(hosts, ttl_s)


async def _preferred(
    resolver: dns.asyncresolver.Resolver, answer: dns.resolver.Answer, records: Iterable[Any]
) -> _Found:
    """Return where these records lead."""
    targets: dict[dns.name.Name, list[int]] = {}
    for record in records:
        targets.setdefault(record.target, []).append(record.port)
    if len(targets) > MOST_ENDPOINTS:
        raise InvalidSpec(f"it names more than {MOST_ENDPOINTS} targets")
    said = dict(_additional(answer, targets))
    found = {**said, **await _targets(resolver, [each for each in targets if each not in said])}
    hosts = tuple((host, port) for target, ports in targets.items() for host in found[target][0] for port in ports)
    return _Found(hosts, min(ttl_s for _, ttl_s in found.values()))


async def _targets(
    resolver: dns.asyncresolver.Resolver, targets: Sequence[dns.name.Name]
) -> Mapping[dns.name.Name, _Target]:
    limit = asyncio.Semaphore(AT_ONCE)
    try:
        async with asyncio.TaskGroup() as group:
            asked = {each: group.create_task(_target(resolver, each, limit)) for each in targets}
    except ExceptionGroup as faults:
        raise faults.exceptions[0] from faults
    return {target: task.result() for target, task in asked.items()}


async def _target(resolver: dns.asyncresolver.Resolver, target: dns.name.Name, limit: asyncio.Semaphore) -> _Target:
    """Return the addresses of a target; none where there is no such name: then nothing can run there."""
    async with limit:
        try:
            found = await _addresses(resolver, target, 0, (A, AAAA))
        except dns.resolver.NXDOMAIN:
            return (), 0.0
    return tuple(host for host, _ in found.hosts), found.ttl_s


def _additional(
    answer: dns.resolver.Answer, targets: Iterable[dns.name.Name]
) -> Iterator[tuple[dns.name.Name, _Target]]:
    """Yield the addresses that came with the SRV records, by target."""
    for target in targets:
        sets = [each for each in answer.response.additional if each.name == target and each.rdtype in (A, AAAA)]
        if sets:
            yield target, (tuple(each.address for found in sets for each in found), min(each.ttl for each in sets))


def _ttl_s(answers: Iterable[dns.resolver.Answer]) -> float:
    """Return the least TTL of what was found; what was not is asked for again at any time."""
    return float(min((each.chaining_result.minimum_ttl for each in answers if each.rrset), default=0))


def _whom(source: Dns) -> str:
    return source.server or "the name servers of this host"


def _words(error: Exception) -> str:
    match error:
        case dns.resolver.NoNameservers():
            faults = error.kwargs.get("errors") or ()
            return "; ".join(dict.fromkeys(_fault(each[3]) for each in faults)) or "no name server is known"
        case OSError():
            return error.strerror or type(error).__name__
        case _:
            return str(error) or type(error).__name__


def _fault(fault: object) -> str:
    """Return the response code, or what has happened."""
    if isinstance(fault, OSError):
        return fault.strerror or type(fault).__name__
    return str(fault) or type(fault).__name__
