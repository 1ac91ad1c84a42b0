"""Whom the --admin-access file trusts: client certificates, and a proxy that says who has logged in."""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError, model_validator

from rollout.credentials import check_services
from rollout.errors import InvalidSpec
from rollout.faults import faults, path_words
from rollout.fields import Spec
from rollout.rights import Grant, Identity, Role, Via
from xds.access import SPIFFE, dns_name, spiffe_id
from xds.config import load
from xds.errors import InvalidConfig, Problem

COMMON_NAME = "CN="
NAME_LIMIT = 128
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that has people log in: its addresses, the headers with who and which groups, what each group may do.

    `default` is what everybody may whom it lets in, and who is in none of the groups; None for nothing.
    """

    networks: tuple[Network, ...]
    user: str
    groups: str
    roles: Mapping[str, Grant]
    default: Grant | None = None

    def is_at(self, address: str) -> bool:
        return any(_address(address) in network for network in self.networks)

    def grant(self, groups: Iterable[str]) -> Grant | None:
        return best(self.roles[group] for group in groups if group in self.roles) or self.default

    def client(self, forwarded: Sequence[str]) -> str | None:
        """Return whom it speaks for, by X-Forwarded-For: the last that is no proxy, for those before anybody may say.

        None where that is no address.
        """
        addresses = [each.strip() for line in forwarded for each in line.split(",")]
        try:
            return next((str(_address(each)) for each in reversed(addresses) if not self.is_at(each)), None)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Trust:
    """What a file says: grants by a certificate's SPIFFE ID, DNS name or `CN=...`, and the proxy, None for none."""

    certificates: Mapping[str, Grant] = field(default_factory=dict)
    proxy: Proxy | None = None

    def by_certificate(self, names: Iterable[str]) -> Identity | None:
        """Return who a verified certificate with these names is; None when the file has none of them."""
        known = sorted(name for name in names if name in self.certificates)
        grant = best(self.certificates[name] for name in known)
        return None if grant is None else Identity(known[0], grant, Via.CERTIFICATE)


def best(grants: Iterable[Grant]) -> Grant | None:
    """Return the highest of some grants; of several as high one for the services of all of them. None for none."""
    found = tuple(grants)
    if not found:
        return None
    highest = next(role for role in reversed(Role) if any(each.role is role for each in found))
    services = tuple(each.services for each in found if each.role is highest)
    return Grant(highest, () if () in services else tuple(sorted({each for some in services for each in some})))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    found = ipaddress.ip_address(text.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _certificate_name(name: str) -> str:
    if name.startswith(COMMON_NAME):
        known = name if name.removeprefix(COMMON_NAME).strip() else None
    else:
        known = spiffe_id(name) if name.startswith(SPIFFE) else dns_name(name)
    if known is None:
        raise ValueError(f"'{name}' fits no certificate; write spiffe://corp/ann, ann.corp, or CN=ann")
    return known


def _network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"'{text}' is no network; write 10.0.0.5/32") from error
    if network.prefixlen == 0:
        raise ValueError(f"'{text}' is everybody, who could then be anybody; name the proxy's own addresses")
    return text


def _header(name: str) -> str:
    if not _HEADER.fullmatch(name) or name.lower() in ("authorization", "cookie", "host", "origin"):
        raise ValueError(f"'{name}' is no header for that; write X-Forwarded-User")
    return name


def _services(services: Sequence[str]) -> tuple[str, ...]:
    try:
        check_services(tuple(services))
    except InvalidSpec as error:
        raise ValueError(str(error)) from error
    return tuple(services)


class _Grant(Spec):
    role: Role
    services: Annotated[tuple[str, ...], AfterValidator(_services)] = ()

    def grant(self) -> Grant:
        return Grant(self.role, self.services)


class _Certificate(_Grant):
    name: Annotated[str, AfterValidator(_certificate_name)]


class _Proxy(Spec):
    networks: Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], Field(alias="from", min_length=1)]
    user: Annotated[str, AfterValidator(_header)]
    groups: Annotated[str, AfterValidator(_header)]
    roles: Mapping[str, _Grant] = Field(default_factory=dict)
    default: _Grant | None = None

    @model_validator(mode="after")
    def _somebody_may_something(self) -> "_Proxy":
        if not self.roles and self.default is None:
            raise ValueError("nobody whom it lets in may do anything; give `roles:`, or `default:` for everybody")
        return self

    def proxy(self) -> Proxy:
        networks = tuple(map(ipaddress.ip_network, self.networks))
        roles = {name: each.grant() for name, each in self.roles.items()}
        return Proxy(networks, self.user, self.groups, roles, None if self.default is None else self.default.grant())


class _Document(Spec):
    certificates: tuple[_Certificate, ...] = ()
    proxy: _Proxy | None = None


def parse(name: str, text: str) -> Trust:
    """Read the file `name`. Raises InvalidConfig with every problem found, each with the path that leads to it."""
    try:
        document = _Document.model_validate(load(name, text))
    except ValidationError as error:
        found = ((path_words(each.path), each.what) for each in faults(error))
        raise InvalidConfig(tuple(Problem(f"{name}: {path}", what) for path, what in found)) from error
    problems = tuple(_doubled(name, document))
    if problems:
        raise InvalidConfig(problems)
    certificates = {each.name: each.grant() for each in document.certificates}
    return Trust(certificates, None if document.proxy is None else document.proxy.proxy())


def _doubled(name: str, document: _Document) -> Iterator[Problem]:
    names = [each.name for each in document.certificates]
    for index, each in enumerate(names):
        if each in names[:index]:
            yield Problem(f"{name}: certificates[{index}].name", f"'{each}' is there twice; leave one out")
    if document.proxy is None and not names:
        yield Problem(name, "trusts nobody; give `certificates:`, `proxy:`, or leave --admin-access out")


def by_proxy(proxy: Proxy, header: Callable[[str], Sequence[str]]) -> tuple[str, tuple[str, ...]] | None:
    """Return the user and groups that a proxy's headers say, None without a user.

    Raises ValueError for a header that is there twice: a client may have sent one of them.
    """
    users, groups = header(proxy.user), header(proxy.groups)
    if not users or not users[0].strip():
        return None
    for name, values in ((proxy.user, users), (proxy.groups, groups)):
        if len(values) > 1:
            raise ValueError(f"{name} is there {len(values)} times; the proxy must replace what clients send")
    user = users[0].strip()[:NAME_LIMIT].encode("ascii", "backslashreplace").decode()
    return user, tuple(group.strip() for line in groups for group in line.split(",") if group.strip())
