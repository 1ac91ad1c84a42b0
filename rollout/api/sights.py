"""What a stream of events shows beside them: views of services and of the fleet, made once for all who look."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollout.api.backstage import Backstage
from rollout.api.overview import overview_view
from rollout.api.paging import Page, cut
from rollout.api.views import fleet_view, service_view
from rollout.errors import InvalidSpec, Unknown
from rollout.rights import Grant

SERVICES, FLEET, SERVICE = "services", "fleet", "service:"
MOST_VIEWS = 20
PACE_S = 1.0  # a view is made anew at most that often
NODES_SHOWN = 1_000  # as GET /v1/fleet?limit=1000; beyond, a page is asked for
NODES_PER_S = 500  # of a large fleet the view is made more seldom
UNSTEADY = frozenset({"phase_seconds", "seconds", "undo_seconds"})  # differ though nothing has changed


@dataclass(frozen=True, slots=True)
class Sight:
    """One view as it is sent, and what is left of it without the time that passes."""

    event: str
    data: str
    steady: str
    made_s: float
    pace_s: float


class Sights:
    """Makes views for streams. Who sees the same services shares the same texts."""

    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage
        self._made: dict[tuple[str, tuple[str, ...]], Sight] = {}

    def check(self, name: str, grant: Grant) -> None:
        """Raise InvalidSpec for a view that there is not, Unknown for one of a service that there is not."""
        if name in (SERVICES, FLEET):
            return
        if not name.startswith(SERVICE):
            raise InvalidSpec(f"views: '{name}' is none; there are {SERVICES}, {SERVICE}NAME, {FLEET}")
        service = name.removeprefix(SERVICE)
        services = self._is.controller.services()
        if not grant.sees(service) or (grant.services and service not in services):
            raise Unknown(f"there is no service '{service}' that you may see")
        self._is.controller.check_service(service)

    def look(self, name: str, grant: Grant) -> Sight | None:
        """Return a view as it was at most a second ago; None for a service that is gone."""
        key = (name, grant.services if name == SERVICES else ())
        now_s = self._is.clock()
        known = self._made.get(key)
        if known is None or now_s - known.made_s >= known.pace_s:
            made = self._make(name, grant, now_s)
            if made is None:
                self._made.pop(key, None)
                return None
            known = self._made[key] = made
        return known

    def forget_old(self) -> None:
        """Drop what nobody has looked at for a while."""
        now_s = self._is.clock()
        old = [key for key, each in self._made.items() if now_s - each.made_s > 10 * each.pace_s]
        for key in old:
            del self._made[key]

    def _make(self, name: str, grant: Grant, now_s: float) -> Sight | None:
        controller = self._is.controller
        if name == SERVICES:
            return _sight("services", overview_view(controller, grant.seen(controller.services())), now_s)
        if name == FLEET:
            return self._fleet(now_s)
        service = name.removeprefix(SERVICE)
        if service not in controller.publisher.services():
            return None
        return _sight("service", service_view(controller, service, self._is.moment()), now_s)

    def _fleet(self, now_s: float) -> Sight:
        cache = self._is.cache
        nodes = cut((*cache.connected(), *cache.gone()), Page(NODES_SHOWN), lambda each: (each.node.id,))
        failures = {node: failure.why for node, failure in self._is.failures().items()}
        view = {"nodes": fleet_view(nodes.items, now_s, failures), "next": nodes.next}
        return _sight("fleet", view, now_s, max(PACE_S, len(nodes.items) / NODES_PER_S))


def _sight(event: str, view: Mapping[str, Any], now_s: float, pace_s: float = PACE_S) -> Sight:
    return Sight(event, json.dumps(view), json.dumps(_steady(view)), now_s, pace_s)


def _steady(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _steady(each) for name, each in value.items() if name not in UNSTEADY}
    return [_steady(each) for each in value] if isinstance(value, list | tuple) else value
