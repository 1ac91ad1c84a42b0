"""The routes of the audit log: its rows, page by page, and whether its chain is whole."""

from aiohttp import web

from rollout.api.backstage import Backstage
from rollout.api.contract import Query, Route
from rollout.api.models import events as models
from rollout.api.paging import PAGE, ended, page_of
from rollout.api.queries import asked
from rollout.chain import AuditRow, Verified
from rollout.rights import Role
from rollout.store import NEWEST, audit_head

TEXT = {"type": "string", "minLength": 1}
FILTERS = (
    Query("service", "Only what concerns this service.", TEXT),
    Query("who", "Only what this person or program asked for.", TEXT),
    Query("verb", "Only those that asked for this.", TEXT),
)
HEAD = (
    Query("head", "A head that was noted before: it must be the hash of a row.", {"type": "string", "minLength": 1}),
)


class Audit:
    """Handlers. Who did what on services that somebody may not see is for nobody else: they need a whole grant."""

    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage

    def routes(self) -> tuple[Route, ...]:
        admin, chain = Role.ADMIN, "whether the audit log is whole"
        rows, whole = models.Audit, models.AuditVerified
        return (
            Route("GET", "/v1/audit", self.rows, "who did what", admin, rows, query=PAGE + FILTERS),
            Route("GET", "/v1/audit/verify", self.verify, chain, admin, whole, query=HEAD),
        )

    async def rows(self, request: web.Request) -> web.Response:
        given, page = asked(request), page_of(request, int)
        wanted = {each.name: str(given[each.name]) for each in FILTERS if each.name in given}
        before = NEWEST if page.after is None else int(page.after[0])
        found = await self._is.chronicle.audit(before, page.limit + 1, wanted)
        shown = ended(found, page, lambda each: (each.id,))
        head = await audit_head(self._is.chronicle)
        views = [audit_view(each) for each in shown.items]
        return web.json_response(models.Audit(rows=views, head=head, next=shown.next))

    async def verify(self, request: web.Request) -> web.Response:
        found = await self._is.chronicle.verified(asked(request).get("head", ""))
        return web.json_response(verified_view(found))


def audit_view(row: AuditRow) -> models.AuditRow:
    return {
        "id": row.id,
        "at": row.at,
        "service": row.service,
        "verb": row.verb,
        "who": row.who,
        "origin": row.origin,
        "detail": row.detail,
        "result": row.result,
        "hash": row.hash,
    }


def verified_view(found: Verified) -> models.AuditVerified:
    broken: models.Broken | None = None if found.broken is None else {"row": found.broken, "why": found.why}
    return {"rows": found.rows, "head": found.head, "broken": broken}
