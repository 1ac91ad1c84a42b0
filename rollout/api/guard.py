"""The door of the API: who sends a request, whether they may, and that no page of others speaks for them."""

import json
from typing import Any

import structlog
from aiohttp import hdrs, web

from rollout.access.doorkeeper import Shown, plain_address
from rollout.access.rejections import Kind
from rollout.access.tls import client_names, is_withdrawn
from rollout.api.backstage import Backstage
from rollout.api.contract import READING, Handler, Route, route_of
from rollout.api.requests import IDENTITY, NOTED, STANDING, WHENCE, caller, check_known, demand
from rollout.bootstrap import is_loopback
from rollout.credentials import same, without_secrets
from rollout.errors import NotAllowed, NotIdentified, RolloutError, TooMany, Unavailable
from rollout.ledger import WORDS_LIMIT
from rollout.record import Operation
from rollout.rights import Identity, Role, Via

COOKIE = "rollout_session"
CSRF_HEADER = "X-CSRF-Token"
FETCH_SITE = "Sec-Fetch-Site"
PLANNING = "/v1/plan"  # changes nothing, were it right
PASSED_ON = ("X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Forwarded")
"""What proxies add."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def guard(backstage: Backstage) -> Any:
    """Return the middleware that lets requests in; it must be inside of what turns errors into answers."""
    doorkeeper, strangers = backstage.doorkeeper, backstage.strangers

    @web.middleware
    async def let_in(request: web.Request, handler: Handler) -> web.StreamResponse:
        strangers.asked(request.protocol)
        if not doorkeeper.is_on():
            _check_near(request)
        if request.method not in READING:
            _check_origin(request)
        route = route_of(request)
        if route is None:
            return await _nothing(request, handler)
        request[WHENCE] = doorkeeper.whence(shown(request))
        _know(request, backstage, route.need)
        try:
            if route.need is not None:
                _check_may(request, backstage, route.need)
            response = await handler(request)
        except (RolloutError, web.HTTPException) as error:
            if not isinstance(error, Unavailable):
                _note_refused(request, route, backstage, f"{type(error).__name__}: {error}")
            raise
        if route.changes and 400 <= response.status < 500 and NOTED not in response:
            _note_refused(request, route, backstage, _problem_of(response))
        return response

    return let_in


def _check_near(request: web.Request) -> None:
    """Raise NotAllowed for who is not of this host, while nobody is asked who they are."""
    if not is_loopback(request.url.host or ""):
        # Else a page of any host that is made to resolve to 127.0.0.1 could deploy.
        raise NotAllowed(f"this API is for loopback, not for '{request.host}'")
    passed_on = next((each for each in PASSED_ON if each in request.headers), None)
    if passed_on is not None:
        what = f"a proxy has passed this on ({passed_on}), and nobody has to show here who they are"
        raise NotAllowed(f"{what}; make a token first: `rollout token create NAME --role admin`")


def _check_may(request: web.Request, backstage: Backstage, need: Role) -> None:
    service = request.match_info.get("service")
    demand(request, need, service)
    if service is not None:
        check_known(request, service, backstage.controller.services())


def _note_refused(request: web.Request, route: Route, backstage: Backstage, words: str) -> None:
    """Note a change that was refused, in the audit log, of which its verb has noted nothing."""
    if not route.changes or route.path == PLANNING or (by := caller(request)).rehearses:
        return
    doorkeeper, asked = backstage.doorkeeper, request.match_info.get("service", "")
    service = asked if asked in backstage.controller.services() else ""  # what is none may be any text
    verb, words = f"{route.method} {route.path}", without_secrets(words)[:WORDS_LIMIT]
    kind = Kind.DENIED if words.startswith(NotAllowed.__name__) else Kind.MISTAKEN
    done = Operation(doorkeeper.wall(), service, verb, without_secrets(str(by)), "", words, by.origin)
    doorkeeper.declined(kind, done)


def _problem_of(response: web.StreamResponse) -> str:
    """Return what an answer with a problem document says."""
    text = response.text if isinstance(response, web.Response) else None
    problem = json.loads(text or "{}")
    return f"{problem.get('title', response.reason)}: {problem.get('detail', '')}"


def _know(request: web.Request, backstage: Backstage, need: Role | None) -> None:
    """Find out who asks. Where everybody may, nobody need be known."""
    doorkeeper = backstage.doorkeeper
    try:
        found = doorkeeper.identify(shown(request))
    except (NotIdentified, NotAllowed, TooMany) as error:
        if need is None:
            return
        if isinstance(error, NotIdentified):
            doorkeeper.turned_away(shown(request))
        raise
    request[IDENTITY] = found
    request[STANDING] = lambda: doorkeeper.holds(found, shown(request))
    backstage.strangers.known(request.protocol)
    if request.method not in READING:
        _check_forgery(request, found, doorkeeper.csrf(found, cookie_of(request)))


def _check_forgery(request: web.Request, found: Identity, wanted: str | None) -> None:
    """Raise NotAllowed for a change that a browser may send on the behalf of a page of others."""
    by_browser = hdrs.ORIGIN in request.headers or FETCH_SITE in request.headers
    if wanted is None or not (by_browser or found.via is Via.SESSION):
        return
    if not same(request.headers.get(CSRF_HEADER, ""), wanted):
        raise NotAllowed(f"a change by a browser needs the header {CSRF_HEADER}: `csrf` of GET /v1/me says it")


async def _nothing(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer that there is nothing, or nothing that takes this method: what has no rule is not there either."""
    if request.match_info.http_exception is not None:
        return await handler(request)
    structlog.get_logger().error("a route without a rule", method=request.method, path=request.path)
    raise web.HTTPNotFound


def shown(request: web.Request) -> Shown:
    """Return what a request shows of who sends it."""
    return Shown(
        plain_address(request.remote or ""),
        _bearer(request),
        cookie_of(request),
        client_names(request.transport),
        lambda name: request.headers.getall(name, []),
    )


def cookie_of(request: web.Request) -> str:
    return request.cookies.get(COOKIE, "")


def _bearer(request: web.Request) -> str | None:
    """Return the token that is shown; "" for a header of another kind, or two of them: nobody has that."""
    given = request.headers.getall(hdrs.AUTHORIZATION, [])
    if not given:
        return None
    scheme, _, token = given[0].partition(" ")
    return token.strip() if scheme.lower() == "bearer" and len(given) == 1 else ""


def by_tls(request: web.Request) -> bool:
    """Say whether a browser has come by TLS, to this port or to a proxy in front: then its cookie is for that only."""
    return request.secure or request.headers.get(hdrs.ORIGIN, "").startswith("https://")


def _check_origin(request: web.Request) -> None:
    """Raise NotAllowed for a change that a page of another host asks for; browsers say which one does."""
    origin = request.headers.get(hdrs.ORIGIN)
    scheme, _, host = (origin or "").partition("://")
    if origin is not None and (host != request.host or (request.secure and scheme != "https")):
        raise NotAllowed(f"changes are not taken from pages of {origin[:200]}")
    site = request.headers.get(FETCH_SITE)
    if site not in (None, "same-origin", "none"):
        raise NotAllowed(f"changes are not taken from pages of other hosts ({FETCH_SITE}: {site[:80]})")


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Say in each answer what browsers may do with it: to be called before it is sent, for streams, too."""
    for name, value in HEADERS.items():
        response.headers[name] = value
    if request.path.startswith(("/v1/", "/metrics")):
        response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    if is_withdrawn(request.transport):
        response.force_close()
        response.headers[hdrs.CONNECTION] = "close"
