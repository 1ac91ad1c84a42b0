"""TLS on the admin API with real certificates: who is who by theirs, new files without a restart, and the CLI."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from structlog.testing import capture_logs

from rollout.app import serve
from rollout.client import ApiFault, TlsOptions, connect
from rollout.errors import InvalidSpec, RolloutError, Unavailable
from rollout.settings import Settings
from tests.rollout.doors import OWN, ROOT_TOKEN, Door, running, settings
from tests.rollout.listening import STREAM, first
from tests.xds.certificates import Authority, Issued, address, dns, uri
from xds.errors import XdsError

ADOPT = f"/v1/services/{OWN}/adopt"


@dataclass(frozen=True)
class Files:
    """A server's files, and those of clients."""

    folder: Path
    ours: Authority

    def serve_with(self, issued: Issued) -> tuple[Path, Path]:
        return issued.write(self.folder, "server")

    def context(self, own: Issued | None = None) -> ssl.SSLContext:
        ca = self.folder / "ca.pem"
        ca.write_bytes(self.ours.pem)
        return TlsOptions(str(ca), *self.options(own)).context()

    def options(self, own: Issued | None) -> tuple[str, ...]:
        return () if own is None else tuple(map(str, own.write(self.folder, "client")))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> Files:
    return Files(tmp_path, authority)


def certificate(authority: Authority, **days: Any) -> Issued:
    return authority.issue(dns("localhost"), address("127.0.0.1"), **days)


@pytest.fixture
def secured(tmp_path: Path, files: Files, authority: Authority) -> Settings:
    cert, key = files.serve_with(certificate(authority))
    (tmp_path / "clients.pem").write_bytes(authority.pem)
    grants = [
        {"name": "spiffe://corp/ann", "role": "operator"},
        {"name": "ci.corp", "role": "operator", "services": ["zebra"]},
        {"name": "CN=bob", "role": "viewer"},
    ]
    (tmp_path / "access.yaml").write_text(yaml.safe_dump({"certificates": grants}))
    tls = {"admin_cert": cert, "admin_key": key, "admin_client_ca": tmp_path / "clients.pem"}
    return settings(tmp_path, admin_access=tmp_path / "access.yaml", **tls)


@contextlib.asynccontextmanager
async def coming(door: Door, files: Files, own: Issued | None) -> AsyncIterator[Door]:
    """Yield the same server for a client with this certificate, on connections of its own."""
    connector = aiohttp.TCPConnector(ssl=files.context(own), force_close=True)
    async with aiohttp.ClientSession(f"https://{door.address}", connector=connector) as http:
        yield Door(door.listening, http)


async def test_certificate_says_who_asks(secured: Settings, files: Files, authority: Authority) -> None:
    async with running(secured, ssl=files.context()) as door:
        for own, name, role, adopts in (
            (authority.issue(uri("spiffe://corp/ann")), "spiffe://corp/ann", "operator", 200),
            (authority.issue(dns("CI.corp")), "ci.corp", "operator", 403),
            (authority.issue(common_name="bob"), "CN=bob", "viewer", 403),
        ):
            async with coming(door, files, own) as client:
                me = (await client.ask("GET", "/v1/me")).body
                assert (me["name"], me["role"], me["via"]) == (name, role, "certificate")
                assert (await client.ask("POST", ADOPT, {"version": "v1"})).status == adopts
                assert (await client.ask("POST", ADOPT, Origin=f"https://{door.address}")).status == 403  # a browser


async def test_names_count_only_as_what_they_are(secured: Settings, files: Files, authority: Authority) -> None:
    async with running(secured, ssl=files.context()) as door:
        for own in (
            None,
            authority.issue(dns("other.corp")),
            authority.issue(common_name="ci.corp"),
            authority.issue(common_name="spiffe://corp/ann"),
            authority.issue(dns("bob")),
            authority.issue(uri("spiffe://corp/ann"), uri("spiffe://corp/bob")),
        ):
            async with coming(door, files, own) as client:
                assert (await client.ask("GET", "/v1/me")).status == 401


async def test_a_good_certificate_that_nobody_listed_is_told_so_and_noted(
    secured: Settings, files: Files, authority: Authority
) -> None:
    own = authority.issue(uri("spiffe://corp/carol"), dns("carol.corp"))
    async with running(secured, ssl=files.context()) as door, coming(door, files, own) as client:
        with capture_logs() as logs:
            assert (await client.ask("GET", "/readyz")).status == 200
            assert not [each for each in logs if each["event"] == "not let in"]
            said = await client.ask("GET", "/v1/me")
        what = "no name of it (CN=leaf, carol.corp, spiffe://corp/carol) is in the --admin-access file"
        assert (said.status, what in said.body["detail"]) == (401, True)
        (noted,) = [each for each in logs if each["event"] == "not let in"]
        assert (noted["address"], what in noted["reason"]) == ("127.0.0.1", True)


async def test_strangers_certificates_and_expired_ones_fail_in_the_handshake(
    secured: Settings, files: Files, authority: Authority
) -> None:
    expired = authority.issue(uri("spiffe://corp/ann"), days=(-2, -1))
    async with running(secured, ssl=files.context()) as door:
        for own in (Authority("other").issue(uri("spiffe://corp/ann")), expired):
            async with coming(door, files, own) as client:
                with pytest.raises((aiohttp.ClientError, ConnectionError)):
                    await client.ask("GET", "/v1/me")
        assert (await door.ask("GET", "/healthz")).status == 200


async def test_old_tls_is_not_spoken(secured: Settings, files: Files) -> None:
    old = files.context()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with running(secured, ssl=old) as door:
        with pytest.raises(aiohttp.ClientError):
            await door.ask("GET", "/healthz")


async def test_new_files_count_without_a_restart_and_broken_ones_never(
    secured: Settings, files: Files, tmp_path: Path
) -> None:
    following = Authority("following")
    ann = following.issue(uri("spiffe://corp/ann"))
    fresh = Files(tmp_path / "fresh", following)
    fresh.folder.mkdir()
    with capture_logs() as logs:
        async with running(secured, ssl=files.context()) as door:
            assert secured.admin_cert is not None
            assert secured.admin_key is not None
            assert secured.admin_client_ca is not None
            secured.admin_key.write_bytes(b"half")
            async with coming(door, files, None) as client:
                assert (await client.ask("GET", "/healthz")).status == 200
            files.serve_with(certificate(following))
            secured.admin_client_ca.write_bytes(following.pem)
            async with coming(door, fresh, ann) as client:
                assert (await client.ask("GET", "/v1/me")).body["name"] == "spiffe://corp/ann"
            async with coming(door, fresh, files.ours.issue(uri("spiffe://corp/ann"))) as client:
                with pytest.raises((aiohttp.ClientError, ConnectionError)):
                    await client.ask("GET", "/v1/me")
    told = [each["event"] for each in logs if "certificate" in each["event"]]
    assert told == [
        "admin certificate loaded",
        "admin certificate refused; the last good one stays in use",
        "admin certificate loaded",
    ]


async def test_connection_in_use_names_nobody_once_its_authority_is_withdrawn(
    secured: Settings, files: Files, authority: Authority
) -> None:
    other = Authority("other")
    assert secured.admin_client_ca is not None
    secured.admin_client_ca.write_bytes(authority.pem + other.pem)
    connector = aiohttp.TCPConnector(ssl=files.context(other.issue(uri("spiffe://corp/ann"))), limit=1)
    async with (
        running(secured, ssl=files.context()) as door,
        aiohttp.ClientSession(f"https://{door.address}", connector=connector) as http,
    ):
        kept = Door(door.listening, http)
        assert (await kept.ask("GET", "/v1/me")).body["name"] == "spiffe://corp/ann"
        secured.admin_client_ca.write_bytes(authority.pem + other.pem + Authority("new").pem)
        async with coming(door, files, None) as client:
            assert (await client.ask("GET", "/healthz")).status == 200
        assert (await kept.ask("GET", "/v1/me")).status == 200
        secured.admin_client_ca.write_bytes(authority.pem)
        async with coming(door, files, None) as client:
            assert (await client.ask("GET", "/healthz")).status == 200
        refused = await kept.ask("GET", "/v1/me")
        assert (refused.status, refused.headers.get("Connection")) == (401, "close")


async def test_resumed_session_names_nobody_once_its_authority_is_withdrawn(
    secured: Settings, files: Files, authority: Authority
) -> None:
    other = Authority("other")
    assert secured.admin_client_ca is not None
    secured.admin_client_ca.write_bytes(authority.pem + other.pem)
    context = files.context(other.issue(uri("spiffe://corp/ann")))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with running(secured, ssl=files.context()) as door:
        host, _, port = door.address.rpartition(":")

        def ask(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None]:
            with (
                socket.create_connection((host, int(port)), timeout=20) as plain,
                context.wrap_socket(plain, server_hostname=host, session=session) as connection,
            ):
                connection.sendall(b"GET /v1/me HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert connection.session_reused is (session is not None)
                said, made = connection.recv(65_536)[9:12], connection.session
                connection.unwrap()  # a session that is not ended well is not resumed
                return said, made

        said, session = await asyncio.to_thread(ask, None)
        assert said == b"200"
        assert (await asyncio.to_thread(ask, session))[0] == b"200"
        secured.admin_client_ca.write_bytes(authority.pem)
        assert (await asyncio.to_thread(ask, session))[0] == b"401"


async def test_cookies_are_for_tls_only_there(secured: Settings, files: Files) -> None:
    async with running(replace(secured, token=ROOT_TOKEN), ssl=files.context()) as door:
        said = await door.ask("POST", "/v1/session", {"token": ROOT_TOKEN})
        assert "Secure" in said.headers["Set-Cookie"]


async def test_command_line_believes_its_authority_and_shows_its_certificate(
    secured: Settings, files: Files, authority: Authority
) -> None:
    async with running(secured, ssl=files.context()) as door:
        server = f"https://{door.address}"
        files.context()
        ca = str(files.folder / "ca.pem")
        ann = TlsOptions(ca, *files.options(authority.issue(uri("spiffe://corp/ann"))))
        async with connect(server, token=None, user="", tls=ann) as client:
            assert (await client.get("/v1/me"))["role"] == "operator"
        async with connect(server, token=None, user="", tls=TlsOptions(ca)) as client:
            with pytest.raises(ApiFault, match="Authorization"):
                await client.get("/v1/me")
        async with connect(server, token=None, user="") as client:
            with pytest.raises(Unavailable, match="ROLLOUT_CA"):
                await client.get("/v1/me")
    for wrong in (TlsOptions("/nowhere.pem"), TlsOptions("", "/own.pem"), TlsOptions("", "/own.pem", "/own.key")):
        with pytest.raises(InvalidSpec, match="ROLLOUT_C"):
            wrong.context()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"admin_key": None}, "--admin-cert and --admin-key go together"),
        ({"admin_cert": None, "admin_key": None}, "--admin-client-ca needs TLS"),
        ({"admin_client_ca": None}, "has certificates, but no client is asked for one"),
        ({"admin_cert": Path("/nowhere")}, "/nowhere: is no file"),
        ({"admin_access": Path("/nowhere")}, "cannot read --admin-access /nowhere"),
        ({"token": "rlt_one-that-was-given-out"}, "is one that a server has given out"),
    ],
)
async def test_start_refuses_what_does_not_fit_together(secured: Settings, changes: Any, text: str) -> None:
    with pytest.raises((RolloutError, XdsError)) as caught:
        await serve(replace(secured, **changes), lambda _: None)
    assert text in str(caught.value)


async def test_key_of_another_certificate_and_an_expired_one_are_refused(
    secured: Settings, files: Files, authority: Authority, tmp_path: Path
) -> None:
    other = authority.issue(dns("localhost")).write(tmp_path, "other")[1]
    old = certificate(authority, days=(-2, -1)).write(tmp_path, "old")
    locked = certificate(authority, password=b"hunter2").write(tmp_path, "locked")
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"admin_key": other}, "not the key of the first certificate"),
        ({"admin_cert": old[0], "admin_key": old[1]}, "which is not now; renew it"),
        ({"admin_cert": locked[0], "admin_key": locked[1]}, "no private key in PEM without a password"),
        ({"admin_client_ca": other}, "holds no certificates in PEM"),
    )
    for changes, text in wrong:
        with pytest.raises(XdsError) as caught:
            await serve(replace(secured, **changes), lambda _: None)
        assert text in str(caught.value)


async def test_plain_text_that_others_can_reach_is_warned_of(tmp_path: Path, secured: Settings) -> None:
    plain = settings(tmp_path, token=ROOT_TOKEN)
    for given, warned in ((replace(plain, admin="0.0.0.0:0"), True), (replace(secured, admin="0.0.0.0:0"), False)):
        with capture_logs() as logs:
            async with running(given):
                pass
        warnings = [each["warning"] for each in logs if each["event"] == "open to others"]
        assert any("the admin API speaks plain text" in each for each in warnings) is warned


async def test_stream_of_a_certificate_with_several_names_goes_on_until_one_is_taken_out(
    secured: Settings, files: Files, authority: Authority, tmp_path: Path
) -> None:
    both = authority.issue(uri("spiffe://corp/ann"), common_name="bob")
    async with (
        running(replace(secured, token=ROOT_TOKEN), ssl=files.context()) as door,
        coming(door, files, both) as client,
        client.http.get("/v1/events", headers=STREAM) as stream,
    ):
        assert (await client.ask("GET", "/v1/me")).body["role"] == "operator"
        await first(stream, 1, "")
        for role in ("viewer", "admin"):
            said = await door.ask("POST", "/v1/tokens", {"name": role, "role": role}, ROOT_TOKEN)
            assert said.status == 201
            await first(stream, 1)
        assert secured.admin_access is not None
        grants = {"certificates": [{"name": "CN=bob", "role": "viewer"}]}
        secured.admin_access.write_text(yaml.safe_dump(grants))
        assert (await door.ask("POST", "/v1/config/reload", token=ROOT_TOKEN)).status == 200
        async with asyncio.timeout(20):
            with contextlib.suppress(aiohttp.ClientError):
                await stream.content.read()  # comes back once the server has ended it


async def test_page_that_came_in_clear_changes_nothing_over_tls(secured: Settings, files: Files) -> None:
    async with running(replace(secured, token=ROOT_TOKEN), ssl=files.context()) as door:
        for scheme, status in (("http", 403), ("https", 200)):
            origin = f"{scheme}://{door.address}"
            said = await door.ask("POST", "/v1/config/reload", token=ROOT_TOKEN, Origin=origin)
            assert said.status == status
