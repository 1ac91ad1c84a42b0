"""Routes that a rollout puts before those that are written: copies of them, for requests that go by no weight."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any as Message

from rollout.exposure import Match, Matcher, Sticky
from rollout.traffic.places import Places, change, copied
from rollout.traffic.routing import NOBODY, RANDOM_CHARACTERS, REQUEST_ID, Aside, Lead, direct
from rollout.traffic.splice import EMPTY, Graft, Knife, Leaf, Rules, Splice
from xds import proto
from xds.resources import CLUSTERS, VIRTUAL_HOSTS, Reference, ResourceType
from xds.wire import text_field

ROUTE = "envoy.config.route.v3.Route"
ROUTE_CONFIGURATION = "envoy.config.route.v3.RouteConfiguration"
INTERNAL_ONLY_HEADERS_FIELD = 3  # of a RouteConfiguration
ANY_VALUE = ".*"
Copy = tuple[Message, Places | None]


def _has_mirrors(message: Message) -> bool:
    hosts = ("envoy.config.route.v3.VirtualHost", ROUTE_CONFIGURATION)
    return message.DESCRIPTOR.full_name in hosts and bool(message.request_mirror_policies)


RULES = Rules(frozenset({ROUTE}), {ROUTE_CONFIGURATION: INTERNAL_ONLY_HEADERS_FIELD}, _has_mirrors)


class Renewal:
    """Makes what routes need of where services lead now, each thing once."""

    def __init__(self, leads: Mapping[str, Lead], knife: Knife) -> None:
        self._leads = leads
        self._knife = Knife(knife.names, knife.rules)  # what is made here is forgotten with it
        self._encoded: dict[Leaf, bytes] = {}
        self._references: dict[tuple[str, str], tuple[Reference, ...]] = {}

    def encoded(self, leaf: Leaf) -> bytes:
        known = self._encoded.get(leaf)
        if known is None:
            known = self._encoded[leaf] = _directed(leaf, {name: self._leads[name] for name in leaf.names})
        return known

    def made_of(self, graft: Graft) -> tuple[Aside, ...] | None:
        aside = tuple(self._leads[name].aside for name in sorted(graft.names))
        return aside if any(each != NOBODY for each in aside) else None

    def grown(self, graft: Graft) -> Splice:
        aside = {name: self._leads[name].aside for name in sorted(graft.names)}
        if graft.source.DESCRIPTOR.full_name == ROUTE_CONFIGURATION:
            headers = b"".join(
                text_field(INTERNAL_ONLY_HEADERS_FIELD, each) for each in _internal(graft.source, aside.values())
            )
            return replace(EMPTY, pieces=(headers,))
        return self._knife.listed(graft, _copies(graft.source, graft.places, aside))

    def references(self, service: str, path: str) -> tuple[Reference, ...]:
        """Return the references of a route, at this path, to the versions of a service."""
        known = self._references.get((service, path))
        if known is None:
            field = f"{path}.weighted_clusters"
            clusters = self._leads[service].clusters()
            known = tuple(Reference(CLUSTERS, cluster, field) for cluster in clusters)
            self._references[service, path] = known
        return known


def known_to(type_: ResourceType, leads: Mapping[str, Lead]) -> Mapping[str, Lead]:
    """Return the leads as routes of this type may follow them.

    The headers of a virtual host that is served by itself are not ours to remove, so who is outside could preview.
    """
    if type_ is not VIRTUAL_HOSTS:
        return leads
    return {name: _without_preview(each) if _is_internal(each.aside) else each for name, each in leads.items()}


def _without_preview(lead: Lead) -> Lead:
    return replace(lead, aside=replace(lead.aside, preview=None, previewed=()))


def _is_internal(aside: Aside) -> bool:
    return aside.preview is not None and not aside.preview.external


def _directed(leaf: Leaf, leads: Mapping[str, Lead]) -> bytes:
    message = copied(leaf.message)
    change(message, leaf.places, lambda action, _: direct(action, leads, leaf.above))
    return proto.canonical(message)


def _internal(configuration: Message, aside: Iterable[Aside]) -> list[str]:
    """Return the headers that Envoy is to remove from requests from outside: those of any service that says so."""
    headers = {each.preview.header for each in aside if each.preview is not None and not each.preview.external}
    return sorted(headers - {header.lower() for header in configuration.internal_only_headers})


def _copies(route: Message, places: Places, aside: Mapping[str, Aside]) -> Iterator[Copy]:
    """Yield the copies of a route, those first that come first."""
    shown = [
        (each.preview.header, version)
        for each in aside.values()
        if each.preview is not None
        for version, _ in each.previewed
    ]
    for header, version in dict.fromkeys(shown):
        copy = _pinned(route, places, _previewed(aside, header, version), aside.keys())
        copy[0].match.headers.add(name=header).string_match.exact = version
        yield copy
    for name, each in aside.items():
        for match in each.match:
            copy = _pinned(route, places, {name: each.matched}, aside.keys())
            _add(copy[0].match, match)
            yield copy
    cookie = next((each.cookie for each in aside.values() if each.cookie is not None), None)
    if cookie is not None:
        yield _giving(route, cookie), places


def _previewed(aside: Mapping[str, Aside], header: str, version: str) -> dict[str, str]:
    """Return by service the cluster where a header with this value leads."""
    return {
        name: dict(each.previewed)[version]
        for name, each in aside.items()
        if each.preview is not None and each.preview.header == header and version in dict(each.previewed)
    }


def _pinned(route: Message, places: Places, pins: Mapping[str, str], names: Iterable[str]) -> Copy:
    """Copy a route so that all of a service's requests go to one cluster; other services of it go by their weights."""

    def pin(action: Message, _: str) -> None:
        if action.cluster in pins:
            action.cluster = pins[action.cluster]
        for each in action.weighted_clusters.clusters:
            each.name = pins.get(each.name, each.name)

    message = copied(route)
    change(message, places, pin)
    return message, places if set(names) - pins.keys() else None


def _add(written: Message, match: Match) -> None:
    """Add to what a route matches."""
    for name, matcher in sorted(match.headers.items()):
        header = written.headers.add(name=name)
        if matcher.present:
            header.present_match = True
        else:
            _say(header.string_match, matcher)
    for name, matcher in sorted(match.cookies.items()):
        cookie = written.cookies.add(name=name)
        if matcher.present:
            cookie.string_match.safe_regex.regex = ANY_VALUE
        else:
            _say(cookie.string_match, matcher)


def _say(text: Message, matcher: Matcher) -> None:
    if matcher.exact is not None:
        text.exact = matcher.exact
    elif matcher.prefix is not None:
        text.prefix = matcher.prefix
    else:
        text.safe_regex.regex = matcher.regex


def _giving(route: Message, sticky: Sticky) -> Message:
    """Copy a route for those without the cookie, who get one: the part of the request's id by which they are hashed.

    A request whose id is no id, as it may come from inside, gets none.
    """
    message = copied(route)
    message.match.headers.add(name=REQUEST_ID).string_match.safe_regex.regex = f"[0-9A-Za-z-]{{{RANDOM_CHARACTERS}}}.*"
    cookie = message.match.cookies.add(name=sticky.cookie, invert_match=True)
    cookie.string_match.safe_regex.regex = ANY_VALUE
    assert sticky.cookie is not None, sticky
    name = sticky.cookie.replace("%", "%%")
    life = "" if sticky.ttl is None else f" Max-Age={int(sticky.ttl.total_seconds())};"
    header = message.response_headers_to_add.add().header
    header.key, header.value = "set-cookie", f"{name}=%REQ({REQUEST_ID}):{RANDOM_CHARACTERS}%;{life} Path=/; HttpOnly"
    return message
