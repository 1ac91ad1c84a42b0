"""What a peer may ask for, by the identity that its certificate proves."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from xds.config import load
from xds.errors import Forbidden, InvalidConfig, Problem
from xds.node import Node, Peer

EVERYONE = "*"
SHOWN_NAMES = 5  # in an error's text
SPIFFE = "spiffe://"
STAR = "{*}"
CLIENTS, IDENTITY, NODE_IDS, NODE_CLUSTERS, SECRETS = "clients", "identity", "node_ids", "node_clusters", "secrets"
FIELDS = (IDENTITY, NODE_IDS, NODE_CLUSTERS, SECRETS)
_SPIFFE_ID = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/(?!\.\.?(/|$))[A-Za-z0-9._-]+)*")
_DNS_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_IDENTITY_CHARACTERS = re.compile(r"(spiffe://)?[A-Za-z0-9._*/-]+")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a peer that was let in may have: `secrets` returns patterns of names, by the rules in force when asked."""

    secrets: Callable[[], tuple[str, ...]] = tuple

    def check_secrets(self, names: Iterable[str]) -> None:
        """Raise Forbidden when one of these secrets may not be had, or this peer may not be its node any more."""
        patterns = self.secrets()
        refused = sorted(name for name in names if not any(_fits(pattern, name) for pattern in patterns))
        if refused:
            listed = ", ".join(f"'{name}'" for name in refused[:SHOWN_NAMES])
            more = f" and {len(refused) - SHOWN_NAMES} more" if len(refused) > SHOWN_NAMES else ""
            raise Forbidden(
                f"no access to the secrets {listed}{more}; name them under {SECRETS} in the --xds-authz file"
            )


class Access(Protocol):
    """Who may connect as which node."""

    def connect(self, peer: Peer) -> None:
        """Raise Forbidden when this peer may be no node at all; called before anything is read."""

    def admit(self, peer: Peer, node: Node) -> Grant:
        """Return what this peer may have as this node. Raises Forbidden when it may not be it."""


class Anyone:
    """Access without rules: every peer that the port lets in may be every node, and no secret is served."""

    def connect(self, _peer: Peer) -> None:
        pass

    def admit(self, _peer: Peer, _node: Node) -> Grant:
        return Grant()


@dataclass(frozen=True, slots=True)
class Client:
    """What the identities that fit `identity` may be and have; all are patterns.

    `*` stands for any characters, in an identity for one or more within one part of it: it crosses no `/` of a SPIFFE
    ID and no `.` of a DNS name; alone it is every identity. `{*}` in a node id is what the identity's `*` stands for.
    """

    identity: str
    node_ids: tuple[str, ...]
    node_clusters: tuple[str, ...]
    secrets: tuple[str, ...] = ()

    def star(self, identity: str) -> str | None:
        """Return what the pattern's `*` stands for in an identity that fits, None when it does not fit."""
        if self.identity == EVERYONE:
            return identity
        found = _identity_pattern(self.identity).fullmatch(identity)
        return None if found is None else str(found[1])

    def may_be(self, star: str, node: Node) -> bool:
        """Say whether this node is allowed to an identity in which `*` stands for `star`."""
        ids = any(_fits(pattern.replace(STAR, star), node.id) for pattern in self.node_ids)
        return ids and any(_fits(pattern, node.cluster) for pattern in self.node_clusters)


class Rules:
    """Access by verified identity: a peer may be and have what any entry that fits one of its identities says."""

    def __init__(self, clients: Iterable[Client]) -> None:
        self._exact: dict[str, list[Client]] = {}
        self._patterns: list[Client] = []
        for client in clients:
            of_same = self._patterns if "*" in client.identity else self._exact.setdefault(client.identity, [])
            of_same.append(client)

    def connect(self, peer: Peer) -> None:
        if not any(True for _ in self._of(peer)):
            raise Forbidden(f"{_named(peer)} is in no entry of the --xds-authz file")

    def admit(self, peer: Peer, node: Node) -> Grant:
        found = [client for client, star in self._of(peer) if client.may_be(star, node)]
        if not found:
            raise Forbidden(f"{_named(peer)} may not be node '{node.id}' of the cluster '{node.cluster}'")
        secrets = tuple(sorted({secret for client in found for secret in client.secrets}))
        return Grant(lambda: secrets)

    def _of(self, peer: Peer) -> Iterator[tuple[Client, str]]:
        """Yield the entries that fit an identity of this peer, each with what its `*` stands for."""
        for identity in sorted(peer.identities or ()):
            if "*" in identity:
                continue
            yield from ((client, "") for client in self._exact.get(identity, ()))
            for client in self._patterns:
                star = client.star(identity)
                if star is not None:
                    yield client, star


class Current:
    """The access in force, which a reload replaces; what was granted before follows it."""

    def __init__(self, access: Access) -> None:
        self.access = access

    def connect(self, peer: Peer) -> None:
        self.access.connect(peer)

    def admit(self, peer: Peer, node: Node) -> Grant:
        self.access.admit(peer, node)
        return Grant(lambda: self.access.admit(peer, node).secrets())


def spiffe_id(text: str) -> str | None:
    """Return a SPIFFE ID as it counts here, None for what is none (SPIFFE-ID, section 2)."""
    return text if _SPIFFE_ID.fullmatch(text) else None


def dns_name(text: str) -> str | None:
    """Return a DNS name in small letters; None for what is none, which a SPIFFE ID and a wildcard are not."""
    name = text.lower()
    return name if len(name) <= 253 and _DNS_NAME.fullmatch(name) else None


def parse(name: str, text: str) -> Rules:
    """Read the rules from the text of the file `name`. Raises InvalidConfig with every problem found."""
    document = load(name, text)
    problems = [
        Problem(f"{name}: {field}", f"is no field; the only one is `{CLIENTS}`")
        for field in document
        if field != CLIENTS
    ]
    items = document.get(CLIENTS)
    clients: list[Client] = []
    if isinstance(items, list) and items:
        for index, item in enumerate(items):
            where = f"{name}: {CLIENTS}[{index}]"
            faults = list(_faults(where, item))
            problems += faults
            if not faults:
                clients.append(_client(item))
    else:
        what = f"must be a list of clients, each with {', '.join(FIELDS)}; an empty one would lock every client out"
        problems.append(Problem(f"{name}: {CLIENTS}", what))
    if problems:
        raise InvalidConfig(tuple(problems))
    return Rules(clients)


def _client(item: Mapping[str, object]) -> Client:
    lists = (tuple(_patterns(item, field)) for field in (NODE_IDS, NODE_CLUSTERS, SECRETS))
    return Client(_normal(str(item[IDENTITY])), *lists)


def _patterns(item: Mapping[str, object], field: str) -> list[str]:
    found = item.get(field)
    return [str(each) for each in found] if isinstance(found, list) else []


def _normal(identity: str) -> str:
    return identity if identity.startswith(SPIFFE) else identity.lower()


def _faults(where: str, item: object) -> Iterator[Problem]:
    if not isinstance(item, dict):
        yield Problem(where, f"must be a mapping with {', '.join(FIELDS)}")
        return
    for field in item:
        if field not in FIELDS:
            yield Problem(f"{where}.{field}", f"is no field; there are {', '.join(FIELDS)}")
    yield from _identity_faults(f"{where}.{IDENTITY}", item.get(IDENTITY))
    for field in (NODE_IDS, NODE_CLUSTERS):
        if not item.get(field):
            yield Problem(f"{where}.{field}", 'is missing; list what is allowed, ["*"] for all')
    for field in (NODE_IDS, NODE_CLUSTERS, SECRETS):
        yield from _list_faults(f"{where}.{field}", item.get(field))
    stars = str(item.get(IDENTITY, "")).count("*")
    if stars != 1 and any(STAR in pattern for pattern in _patterns(item, NODE_IDS)):
        what = (
            f"has {STAR}, which is what the identity's `*` stands for, but the identity has {stars} of them; write one"
        )
        yield Problem(f"{where}.{NODE_IDS}", what)


def _identity_faults(where: str, identity: object) -> Iterator[Problem]:
    example = f"write a SPIFFE ID such as {SPIFFE}corp/edge/*, or a DNS name such as *.edge.corp"
    if not isinstance(identity, str) or not identity:
        yield Problem(where, f"is missing; {example}")
    elif identity != EVERYONE and not _could_fit(identity):
        yield Problem(where, f"'{identity}' fits no identity; {example}")


def _could_fit(pattern: str) -> bool:
    sample = pattern.replace("*", "x")
    known = spiffe_id(sample) if pattern.startswith(SPIFFE) else dns_name(sample)
    return known is not None and _IDENTITY_CHARACTERS.fullmatch(pattern) is not None


def _list_faults(where: str, found: object) -> Iterator[Problem]:
    if found is not None and not isinstance(found, list):
        yield Problem(where, f"must be a list of names, but is a {type(found).__name__}")
        return
    for index, each in enumerate(found or ()):
        if not isinstance(each, str) or not each:
            yield Problem(f"{where}[{index}]", "must be a name or a pattern; put it in quotes")
        elif STAR in each and not where.endswith(NODE_IDS):
            yield Problem(f"{where}[{index}]", f"has {STAR}, which stands for something in {NODE_IDS} only")


@functools.cache
def _identity_pattern(pattern: str) -> re.Pattern[str]:
    separator = "/" if pattern.startswith(SPIFFE) else "."
    return re.compile(f"([^{separator}]+)".join(map(re.escape, pattern.split("*"))))


def _fits(pattern: str, name: str) -> bool:
    """Say whether a name fits a pattern; each part is looked for once, for clients choose names of any length."""
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    *middle, last = rest
    if not name.startswith(first):
        return False
    end = len(first)
    for part in middle:
        start = name.find(part, end)
        if start < 0:
            return False
        end = start + len(part)
    return len(name) - len(last) >= end and name.endswith(last)


def _named(peer: Peer) -> str:
    if peer.identities is None:
        return "a client without a certificate"
    listed = ", ".join(f"'{each}'" for each in sorted(peer.identities)[:SHOWN_NAMES])
    return f"the identity {listed}" if listed else "a certificate without a SPIFFE ID and without a DNS name"
