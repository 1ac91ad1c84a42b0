"""The routes of notifications: who is told, how it stands with them, and a test."""

from typing import Any

from aiohttp import web

from rollout.api.backstage import Backstage
from rollout.api.contract import Route
from rollout.api.models import notify as models
from rollout.api.requests import body_of, caller, known_fields, maybe_text
from rollout.notify.notifier import Report
from rollout.rights import Role
from rollout.saver import Saving


class Notifications:
    """Handlers of notifications."""

    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage

    def routes(self) -> tuple[Route, ...]:
        tests, listed = "sends a message to a target, or to all", "who is notified, and how it stands with them"
        return (
            Route("GET", "/v1/notify", self.show, listed, Role.VIEWER, models.Targets, refuses=(404,)),
            Route("POST", "/v1/notify/test", self.test, tests, Role.ADMIN, models.Tests, models.Test, refuses=(404,)),
        )

    async def show(self, _request: web.Request) -> web.Response:
        return web.json_response({"targets": [_view(each) for each in self._is.office.notifier.reports()]})

    async def test(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        known_fields(body, "target")
        target, notifier = maybe_text(body, "target") or None, self._is.office.notifier
        with self._is.ledger.asked("", "notify test", caller(request), target or "all targets") as entry:
            notifier.check_target(target)
            entry.about_to(f"a test message would be sent to {target or 'all targets'}")
            faults = await notifier.test(target)
            arrived = sum(not fault for fault in faults.values())
            self._is.controller.saver.put(Saving((entry.result(f"{arrived} of {len(faults)} took it"),)))
        return web.json_response({"targets": [_tested(*each) for each in faults.items()]})


def _view(report: Report) -> dict[str, Any]:
    return {
        "target": report.target,
        "address": report.address,
        "delivered_at": report.delivered_at and report.delivered_at.isoformat(),
        "waiting": report.waiting,
        "fault": report.fault,
        "delivered": report.delivered,
        "given_up": report.given_up,
    }


def _tested(name: str, fault: str) -> dict[str, Any]:
    return {"target": name, "delivered": not fault, "fault": fault}
