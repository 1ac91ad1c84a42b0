"""Large answers are packed for clients that unpack them: a fleet of two hundred is a tenth of its size then."""

from aiohttp import hdrs, web

from rollout.api.contract import Handler, route_of

LEAST_BYTES = 2_048


@web.middleware
async def packed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Have a large answer sent as gzip; aiohttp packs the largest in a thread.

    Not one with a secret, for its size would tell of that beside what the asker has chosen.
    """
    response = await handler(request)
    route = route_of(request)
    size = len(response.body) if isinstance(response, web.Response) and isinstance(response.body, bytes) else 0
    if size < LEAST_BYTES or route is None or route.confidential or hdrs.CONTENT_ENCODING in response.headers:
        return response
    response.headers.add(hdrs.VARY, hdrs.ACCEPT_ENCODING)
    if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
        response.enable_compression(web.ContentCoding.gzip)
    return response
