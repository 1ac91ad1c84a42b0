"""How requests reach versions: by weight, by a header or cookie, as copies, and the same one for the same user."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any as Message

from rollout.exposure import FULL_BP, Match, Preview, Sticky
from rollout.traffic.places import copied
from xds import proto

WEIGHTED_CLUSTER = "envoy.config.route.v3.WeightedCluster"
HASH_POLICY = "envoy.config.route.v3.RouteAction.HashPolicy"
WEIGHTS_LIMIT = 2**32 - 1  # of the sum of weights in a route
TEN_THOUSAND = 1  # envoy.type.v3.FractionalPercent.DenominatorType
REQUEST_ID = "x-request-id"
RANDOM_CHARACTERS = 13
"""So many of a request's id are the same from its first route to its answer: what follows, tracing rewrites."""
SHADOW = "+shadow"
MIRROR_HEADER = "x-rollout-mirror"
OVERWRITE = 2  # envoy.config.core.v3.HeaderValueOption.HeaderAppendAction

# Clusters of a service's versions that get requests, and their weights.
Weights = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Routing:
    """How requests reach the versions of a service beside plain weights.

    Requests with one of `match` go to the version `candidate`. It has a cluster beside its own, its `shadow`, where
    the preview header leads and which gets a copy of `mirror_bp` of all requests: so the stats of its own cluster are
    of users only. `preview` names the header that leads to a version, None without one; `sticky` what tells a user.
    """

    candidate: str = ""
    shadow: bool = False
    match: tuple[Match, ...] = ()
    mirror_bp: int = 0
    preview: Preview | None = None
    sticky: Sticky | None = None

    def __post_init__(self) -> None:
        assert self.candidate or not (self.shadow or self.match), self
        assert self.shadow or not (self.mirror_bp or self.preview), self


PLAIN = Routing()


@dataclass(frozen=True, slots=True)
class Aside:
    """Which requests of a service do not go by its weights, and so have routes of their own.

    `previewed` has by a version's name the cluster that the header leads to. Requests with one of `match` go to
    `matched`. Who lacks `cookie` is given it.
    """

    preview: Preview | None = None
    previewed: tuple[tuple[str, str], ...] = ()
    match: tuple[Match, ...] = ()
    matched: str = ""
    cookie: Sticky | None = None


NOBODY = Aside()


@dataclass(frozen=True, slots=True)
class Lead:
    """Where the requests of one service go. `mirror` is a cluster and its share in basis points, None without one."""

    weights: Weights
    mirror: tuple[str, int] | None = None
    sticky: Sticky | None = None
    aside: Aside = field(default=NOBODY)

    @property
    def main(self) -> tuple[Weights, tuple[str, int] | None, Sticky | None]:
        """What the routes depend on that are written."""
        return self.weights, self.mirror, self.sticky

    def clusters(self) -> tuple[str, ...]:
        """Return what the routes name, each once."""
        beside = [name for _, name in self.aside.previewed]
        beside += [self.aside.matched] if self.aside.match else []
        beside += [self.mirror[0]] if self.mirror else []
        return tuple(dict.fromkeys((*(name for name, _ in self.weights), *beside)))


def cluster_name(service: str, version: str) -> str:
    return f"{service}@{version}"


def shadow_name(service: str, version: str) -> str:
    return cluster_name(service, f"{version}{SHADOW}")


def lead(service: str, weights_bp: Mapping[str, int], routing: Routing) -> Lead:
    """Return where requests go with these weights by version."""
    weights = tuple((cluster_name(service, name), bp) for name, bp in weights_bp.items() if bp)
    if routing == PLAIN:
        return Lead(weights)
    shadow = shadow_name(service, routing.candidate)
    # A version without requests may be on its way out, but a candidate is previewed before it has any.
    previewed = [(name, cluster_name(service, name)) for name, bp in weights_bp.items() if bp]
    previewed = [*((name, each) for name, each in previewed if name != routing.candidate), (routing.candidate, shadow)]
    return Lead(
        weights,
        (shadow, routing.mirror_bp) if routing.mirror_bp else None,
        routing.sticky,
        Aside(
            routing.preview,
            tuple(previewed) if routing.preview else (),
            routing.match,
            cluster_name(service, routing.candidate) if routing.match else "",
            routing.sticky if routing.sticky and routing.sticky.cookie else None,
        ),
    )


def direct(action: Message, leads: Mapping[str, Lead], above: Message | None) -> None:
    """Have a route's action lead where its services do; `above` has the mirrors that it goes by without own ones."""
    named = sorted({action.cluster, *(each.name for each in action.weighted_clusters.clusters)} & leads.keys())
    sticky = next((leads[name].sticky for name in named if leads[name].sticky and len(leads[name].weights) > 1), None)
    only = leads[named[0]] if len(named) == 1 and _leads_wholly(action, named[0]) else None
    whole = action.cluster in leads
    if whole:
        # clears `cluster`: both are of one oneof
        action.weighted_clusters.CopyFrom(_weighted(leads[action.cluster].weights))
    chosen_by_header = action.weighted_clusters.WhichOneof("random_value_specifier") == "header_name"
    if sticky is not None and not chosen_by_header:
        action.weighted_clusters.use_hash_policy.value = True
        own = list(map(copied, action.hash_policy))
        del action.hash_policy[:]
        action.hash_policy.extend((*_hash_policies(sticky), *own))
    if not whole:
        _split(action.weighted_clusters, {name: leads[name].weights for name in named})
    if only is not None and only.mirror is not None:
        _mirror(action, *only.mirror, above)


def _leads_wholly(action: Message, name: str) -> bool:
    return action.cluster == name or all(each.name == name for each in action.weighted_clusters.clusters)


def _weighted(weights: Weights) -> Message:
    message = proto.message_class(WEIGHTED_CLUSTER)()
    for name, weight in weights:
        message.clusters.add(name=name).weight.value = weight
    return message


def _hash_policies(sticky: Sticky) -> Iterator[Message]:
    """Yield what tells the same user, terminal: nothing behind may change it.

    Who has no cookie yet is told by what it gets as the cookie's value, so the first answer is of the same version.
    """
    make = proto.message_class(HASH_POLICY)
    if sticky.header is not None:
        yield make(header={"header_name": sticky.header}, terminal=True)
        return
    yield make(cookie={"name": sticky.cookie}, terminal=True)
    cut = {"pattern": {"regex": f"^(.{{{RANDOM_CHARACTERS}}}).*$"}, "substitution": r"\1"}
    yield make(header={"header_name": REQUEST_ID, "regex_rewrite": cut}, terminal=True)


def _mirror(action: Message, cluster: str, share_bp: int, above: Message | None) -> None:
    if above is not None and not action.request_mirror_policies:
        # A route with mirrors of its own would lose those of its virtual host.
        action.request_mirror_policies.extend(map(copied, above.request_mirror_policies))
    policy = action.request_mirror_policies.add(cluster=cluster, disable_shadow_host_suffix_append=True)
    policy.runtime_fraction.default_value.numerator = share_bp
    policy.runtime_fraction.default_value.denominator = TEN_THOUSAND
    told = policy.request_headers_mutations.add().append
    told.header.key, told.header.value, told.append_action = MIRROR_HEADER, "true", OVERWRITE


def _split(weighted: Message, weights: Mapping[str, Weights]) -> None:
    """Split each entry that is a service in proportion, and scale the others alike.

    The weights sum to FULL_BP where that is exact, else to a multiple. Where requests are hashed they always sum to the
    same multiple, whatever the splits, or users would move between versions.
    """
    total = sum(entry.weight.value for entry in weighted.clusters)
    unit = math.gcd(*(entry.weight.value for entry in weighted.clusters))
    parts: list[tuple[Message, str, int]] = [
        (entry, name, entry.weight.value // unit * weight)
        for entry in map(copied, weighted.clusters)
        for name, weight in weights.get(entry.name, ((entry.name, FULL_BP),))
    ]
    products = [weight for _, _, weight in parts]
    hashed = weighted.WhichOneof("random_value_specifier") is not None
    exact = not hashed and all(product % (total // unit) == 0 for product in products)
    scaled = [product // (total // unit) for product in products] if exact else _fitting(products)
    del weighted.clusters[:]
    weighted.ClearField("total_weight")  # it would have to be the sum, and is deprecated
    for (entry, name, _), weight in zip(parts, scaled, strict=True):
        part = weighted.clusters.add()
        part.CopyFrom(entry)
        part.name, part.weight.value = name, weight


def _fitting(weights: list[int]) -> list[int]:
    """Return these weights, or as near to their proportions as fits where they are above Envoy's limit."""
    total = sum(weights)
    if total <= WEIGHTS_LIMIT:
        return weights
    ends, end = [], 0
    for weight in weights:
        end += weight
        ends.append(end * WEIGHTS_LIMIT // total)
    return [after - before for before, after in zip([0, *ends], ends, strict=False)]
