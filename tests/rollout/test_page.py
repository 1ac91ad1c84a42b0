"""The web page as it is served: whole, small, cached, of this host only; and the words where it is not built."""

import gzip
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

import build_page
from rollout.api.contract import add_routes
from rollout.api.page import DIST, Page, read_bundle

SIZE_LIMIT_BYTES = 300_000
GOAL_BYTES = 100_000
RAW_MARKUP = re.compile(r"innerHTML|InnerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(")
SPECIFICATIONS = ("http://www.w3.org/",)  # names of XML, which nothing is loaded from


@pytest.fixture
def dist() -> Path:
    if not (DIST / "manifest.json").exists():
        pytest.skip("the page is not built here: `make page` needs node and npm")
    return DIST


@pytest.fixture
async def pages(dist: Path) -> AsyncIterator[ClientSession]:
    async with serving(dist) as server, ClientSession(server.make_url("/"), auto_decompress=False) as session:
        yield session


def serving(folder: Path) -> TestServer:
    app = web.Application()
    add_routes(app, Page(read_bundle(folder)).routes())
    return TestServer(app)


async def test_page_names_assets_that_are_served_for_ever(pages: ClientSession) -> None:
    async with pages.get("/", headers={"Accept-Encoding": "identity"}) as answer:
        shell = await answer.text()
        assert answer.content_type == "text/html"
        assert answer.headers["Cache-Control"] == "no-cache"
    names = re.findall(r'(?:src|href)="(/assets/[^"]+)"', shell)
    assert len(names) >= 4
    for name in names:
        async with pages.get(name) as answer:
            assert answer.status == 200
            assert "immutable" in answer.headers["Cache-Control"]
            assert answer.content_type in ("text/javascript", "text/css", "image/svg+xml")


async def test_packed_copies_are_sent_to_who_takes_them(pages: ClientSession, dist: Path) -> None:
    name = next(each for each in json.loads((dist / "manifest.json").read_text())["assets"] if each.startswith("main"))
    async with pages.get(f"/assets/{name}", headers={"Accept-Encoding": "gzip, br"}) as answer:
        packed = await answer.read()
        assert answer.headers["Content-Encoding"] == "gzip"
        packed_tag = answer.headers["ETag"]
    async with pages.get(f"/assets/{name}", headers={"Accept-Encoding": "identity"}) as answer:
        plain = await answer.read()
        assert "Content-Encoding" not in answer.headers
        assert answer.headers["ETag"] != packed_tag
        assert answer.headers["Vary"] == "Accept-Encoding"
    assert gzip.decompress(packed) == plain == (dist / "assets" / name).read_bytes()


async def test_what_a_browser_has_is_not_sent_again(pages: ClientSession) -> None:
    async with pages.get("/") as answer:
        tag = answer.headers["ETag"]
    async with pages.get("/", headers={"If-None-Match": tag}) as answer:
        assert answer.status == 304
        assert await answer.read() == b""


async def test_names_lead_out_of_no_folder(pages: ClientSession) -> None:
    for name in ("manifest.json", "..%2Findex.html", "%2e%2e%2fmanifest.json", "main.js"):
        async with pages.get(f"/assets/{name}") as answer:
            assert answer.status != 200, name


def test_page_is_small(dist: Path) -> None:
    plain = sum(each.stat().st_size for each in dist.rglob("*") if each.suffix in (".html", ".js", ".css", ".svg"))
    packed = sum(each.stat().st_size for each in dist.rglob("*.gz"))
    assert plain < SIZE_LIMIT_BYTES
    assert packed < GOAL_BYTES


def test_page_names_no_other_host_and_has_no_code_inline(dist: Path) -> None:
    for each in dist.rglob("*"):
        if each.suffix in (".html", ".js", ".css", ".svg"):
            found = re.findall(r"""(?:https?:)?//[a-z0-9-]+\.[a-z][^"'`\s)]*""", each.read_text())
            assert [url for url in found if not url.startswith(SPECIFICATIONS)] == [], each.name
    shell = (dist / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", shell)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", shell)


def test_page_writes_no_markup_of_others() -> None:
    for each in (build_page.WEB / "src").rglob("*.ts*"):
        assert not RAW_MARKUP.search(each.read_text()), each.name


def test_page_is_built_from_the_sources_that_are_there(dist: Path) -> None:
    if build_page.built_from(build_page.WEB) != build_page.sources_of(build_page.WEB):
        pytest.fail(f"{dist} is of other sources: `make page`")


async def test_without_a_built_page_the_root_says_how_to_get_it(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as server,
        ClientSession(server.make_url("/")) as session,
        session.get("/") as answer,
    ):
        assert answer.status == 200
        assert "apt-get install nodejs npm" in await answer.text()


def test_without_node_the_build_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "package-lock.json").write_text("{}")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build_page.NotBuilt, match="apt-get install nodejs npm"):
        build_page.build_page(tmp_path)


def test_a_build_that_fails_leaves_the_page_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "package-lock.json").write_text("{}")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "index.html").write_text("the page before")
    for name in ("node", "npm"):
        (tmp_path / name).write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(build_page.NotBuilt, match="no network"):
        build_page.build_page(tmp_path)
    assert (tmp_path / "dist" / "index.html").read_text() == "the page before"
