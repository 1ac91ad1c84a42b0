"""The web page: one HTML document and what it loads, built before (see build_page.py), served from memory."""

import hashlib
import json
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import hdrs, web

from rollout.api.contract import Route
from rollout.errors import Unknown

DIST = Path(__file__).parents[1] / "web" / "dist"
FOR_EVER = "public, max-age=31536000, immutable"  # a name has its content's hash
ASK_FIRST = "no-cache"
NOT_BUILT = """\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>rollout: no page yet</title></head>
<body>
<h1>The web page is not built</h1>
<p>The server runs, and its API and the command line do all that the page does. The page is built when the package is
installed, by node, which was not there. To get it:</p>
<pre>apt-get install nodejs npm
pip install --force-reinstall --no-deps .      (in a checkout: make page)</pre>
<p>Then start the server again. The lines that the installation prints say what else was wrong, if anything was.</p>
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent: plain, or packed for who takes gzip; `packed` is empty where that is no gain."""

    kind: str
    plain: bytes
    packed: bytes
    tag: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """All files of the page."""

    shell: Asset
    assets: Mapping[str, Asset]


def read_bundle(folder: Path = DIST) -> Bundle:
    """Read the page that was built into a folder, or the words that say how to get one."""
    try:
        names = json.loads((folder / "manifest.json").read_text())["assets"]
        return Bundle(_read(folder / "index.html"), {name: _read(folder / "assets" / name) for name in names})
    except FileNotFoundError:
        return Bundle(_asset("text/html", NOT_BUILT.encode(), b""), {})


def _read(path: Path) -> Asset:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return _asset(kind, path.read_bytes(), path.with_name(f"{path.name}.gz").read_bytes())


def _asset(kind: str, plain: bytes, packed: bytes) -> Asset:
    return Asset(kind, plain, packed if len(packed) < len(plain) else b"", hashlib.sha256(plain).hexdigest()[:16])


class Page:
    """Handlers of what everybody may load, for it has no data."""

    def __init__(self, bundle: Bundle) -> None:
        self._has = bundle

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/", self.shell, "the web page", None),
            Route("GET", "/assets/{name}", self.asset, "what the web page loads", None),
        )

    async def shell(self, request: web.Request) -> web.Response:
        return _answer(request, self._has.shell, ASK_FIRST)

    async def asset(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        found = self._has.assets.get(name)
        if found is None:
            raise Unknown(f"the page has no '{name}'; load the page again")
        return _answer(request, found, FOR_EVER)


def _answer(request: web.Request, asset: Asset, caching: str) -> web.Response:
    packs = bool(asset.packed) and "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, "")
    tag = f'"{asset.tag}{"-gzip" if packs else ""}"'
    headers = {hdrs.ETAG: tag, hdrs.CACHE_CONTROL: caching, hdrs.VARY: hdrs.ACCEPT_ENCODING}
    if tag in request.headers.get(hdrs.IF_NONE_MATCH, ""):
        return web.Response(status=304, headers=headers)
    body = asset.plain
    if packs:
        headers[hdrs.CONTENT_ENCODING], body = "gzip", asset.packed
    charset = "utf-8" if asset.kind.startswith("text/") or asset.kind.endswith("svg+xml") else None
    return web.Response(body=body, headers=headers, content_type=asset.kind, charset=charset)
