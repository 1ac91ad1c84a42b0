"""TLS on the xDS port over real sockets: who gets in, as whom, and what a change of the files does."""

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from bench.http2 import opening
from rollout.demo.processes import until
from tests.xds.certificates import DAY, Authority, Issued, address, dns, server_files, uri
from tests.xds.client import PROTOCOLS, Reply, Wire, read, served, shop
from xds import proto
from xds.access import Access, Anyone, Current, parse
from xds.cache import Cache
from xds.edge.grpcio import METHODS, SERVICE, GrpcEdge
from xds.edge.tls import Certificates, Loaded, TlsFiles, identities, load
from xds.errors import InvalidConfig
from xds.node import Peer
from xds.resources import CLUSTERS, SECRETS, Resource, resource
from xds.session import ControlPlane, Events

both = pytest.mark.parametrize("protocol", PROTOCOLS)
METHOD = {protocol: f"/{SERVICE}/{name}" for name, protocol in METHODS.items()}
LIMIT_S = 20.0
EDGE = uri("spiffe://corp/edge/edge-1")
RULES = """
clients:
- {{identity: spiffe://corp/{edge}/*, node_ids: ["{{*}}"], node_clusters: [edge], secrets: [{secrets}]}}
- {{identity: reader.corp, node_ids: ["*"], node_clusters: ["*"]}}
"""


def rules(edge: str = "edge", secrets: str = "tls") -> Access:
    return parse("a.yaml", RULES.format(edge=edge, secrets=secrets))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> TlsFiles:
    return server_files(tmp_path, authority)


def secret(name: str) -> Resource:
    words = {"name": name, "generic_secret": {"secret": {"inline_string": "hidden"}}}
    return resource(SECRETS, proto.parse(SECRETS.message, words))


class Seen(Anyone):
    """Access that remembers who came; it is what it is made of, but for that."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.peers: list[Peer] = []

    def connect(self, peer: Peer) -> None:
        self.peers.append(peer)
        self.access.connect(peer)

    def admit(self, peer: Peer, node: Any) -> Any:
        return self.access.admit(peer, node)


class Port:
    """A running edge with TLS."""

    def __init__(self, files: TlsFiles | None, access: Access) -> None:
        self.cache = Cache()
        self.cache.publish(served(*shop("a"), secret("tls"), secret("other")))
        self.seen = Seen(access)
        self.told: list[Loaded | InvalidConfig] = []
        self.now = datetime.now(UTC)
        self.refused: list[str] = []
        self.certificates = Certificates(files, lambda: self.now, self.told.append) if files else None
        events = Events(refused=lambda _, error: self.refused.append(str(error)))
        plane = ControlPlane(self.cache, events, self.seen)
        self.edge = GrpcEdge(plane, time.monotonic, self.certificates)

    async def start(self) -> None:
        self.address = f"127.0.0.1:{await self.edge.start('127.0.0.1:0')}"

    def channel(self, root: bytes, own: Issued | None) -> grpc.aio.Channel:
        pair = (own.key, own.cert) if own else (None, None)
        return grpc.aio.secure_channel(self.address, grpc.ssl_channel_credentials(root, *pair))


@contextlib.asynccontextmanager
async def running(files: TlsFiles | None, access: Access | None = None) -> AsyncIterator[Port]:
    port = Port(files, access or Anyone())
    await port.start()
    try:
        yield port
    finally:
        async with asyncio.timeout(LIMIT_S):
            await port.edge.stop(0)


class Client:
    """One ADS stream."""

    def __init__(
        self, channel: grpc.aio.Channel, protocol: str, node_id: str = "edge-1", method: str | None = None
    ) -> None:
        self.wire = Wire(Cache(), protocol, node_id)
        self.protocol = protocol
        self.call = channel.stream_stream(method or METHOD[protocol])()

    async def ask(self, type_url: str, *names: str, nonce: str = "") -> None:
        field = "resource_names" if self.protocol == "sotw" else "resource_names_subscribe"
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # end() says why
            words = {"type_url": type_url, field: list(names), "response_nonce": nonce}
            await self.call.write(self.wire.encode(words))

    async def reply(self) -> Reply:
        async with asyncio.timeout(LIMIT_S):
            return read(self.protocol, await self.call.read())

    async def end(self) -> tuple[grpc.StatusCode, str]:
        async with asyncio.timeout(LIMIT_S):
            return await self.call.code(), await self.call.details()


async def outcome(port: Port, root: bytes, own: Issued | None, protocol: str = "delta") -> str:
    """Connect and ask for clusters; return what comes back: the answer, or the status."""
    async with port.channel(root, own) as channel:
        client = Client(channel, protocol)
        await client.ask(CLUSTERS.url)
        async with asyncio.timeout(LIMIT_S):
            raw = await _first(client)
        return str(read(protocol, raw)) if raw else (await client.end())[0].name


async def _first(client: Client) -> bytes:
    try:
        raw = await client.call.read()
    except grpc.aio.AioRpcError:
        return b""
    return b"" if raw is grpc.aio.EOF else raw


@both
async def test_verified_client_is_served_and_known_by_its_names(
    files: TlsFiles, authority: Authority, protocol: str
) -> None:
    async with running(files) as port:
        own = authority.issue(EDGE, dns("Edge-1.corp"), dns("*.corp"), address("10.0.0.1"))
        assert await outcome(port, authority.pem, own, protocol) == "clusters a"
        assert port.seen.peers[0].identities == frozenset({"spiffe://corp/edge/edge-1", "edge-1.corp"})


async def test_client_that_cannot_prove_who_it_is_fails_in_the_handshake(files: TlsFiles, authority: Authority) -> None:
    own = authority.issue(EDGE)
    strangers = {
        "none": None,
        "expired": authority.issue(EDGE, days=(-2, -1)),
        "not valid yet": authority.issue(EDGE, days=(1, 2)),
        "another authority of the same name": Authority().issue(EDGE),
        "another's certificate without its key": Issued(own.cert, authority.issue(EDGE).key),
    }
    async with running(files) as port:
        for what, stranger in strangers.items():
            assert await outcome(port, authority.pem, stranger) == "UNAVAILABLE", what
        assert port.seen.peers == []
        assert await outcome(port, authority.pem, own) == "clusters a"


async def test_plain_text_client_gets_nothing(files: TlsFiles) -> None:
    async with running(files) as port, grpc.aio.insecure_channel(port.address) as channel:
        client = Client(channel, "delta")
        await client.ask(CLUSTERS.url)
        assert (await client.end())[0] is grpc.StatusCode.UNAVAILABLE
        assert port.seen.peers == []


async def test_client_refuses_a_server_that_it_does_not_know(files: TlsFiles, authority: Authority) -> None:
    async with running(files) as port:
        assert await outcome(port, Authority().pem, authority.issue(EDGE)) == "UNAVAILABLE"


async def test_without_client_authorities_nobody_has_an_identity(files: TlsFiles, authority: Authority) -> None:
    async with running(replace(files, client_ca=None)) as port:
        assert await outcome(port, authority.pem, None) == "clusters a"
        assert await outcome(port, authority.pem, authority.issue(EDGE)) == "clusters a"
        assert [peer.identities for peer in port.seen.peers] == [None, None]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "accepted"),
    [
        (ssl.TLSVersion.TLSv1, False),
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
async def test_tls_is_at_least_1_2(
    files: TlsFiles, authority: Authority, tmp_path: Path, version: ssl.TLSVersion, accepted: bool
) -> None:
    context = ssl.create_default_context(cafile=str(files.client_ca))
    context.load_cert_chain(*authority.issue(EDGE).write(tmp_path, "client"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    async with running(files) as port:
        host, _, number = port.address.rpartition(":")
        try:
            async with asyncio.timeout(LIMIT_S):
                _, writer = await asyncio.open_connection(host, int(number), ssl=context)
        except OSError:
            assert not accepted
        else:
            assert accepted
            writer.transport.abort()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([EDGE, dns("a.corp")], {"spiffe://corp/edge/edge-1", "a.corp"}),
        ([dns("spiffe://corp/edge/edge-1")], set()),
        ([uri("edge-1.corp")], set()),
        ([uri("https://corp/edge-1")], set()),
        ([EDGE, uri("spiffe://corp/admin")], set()),  # a SPIFFE certificate has one URI
        ([EDGE, uri("https://corp/x"), dns("a.corp")], {"a.corp"}),
        ([dns("edge-1.corp\0.evil")], set()),
        ([uri("spiffe://corp/edge\0/x")], set()),
        ([uri("spiffe://corp/edge\n/x")], set()),
        ([uri("spiffe://corp/a/../admin")], set()),
        ([dns("*.corp"), dns("B.corp")], {"b.corp"}),
        ([address("10.0.0.1")], set()),
        ([], set()),
    ],
)
async def test_name_counts_only_as_what_it_is(
    files: TlsFiles, authority: Authority, names: list[Any], found: set[str]
) -> None:
    own = authority.issue(*names, common_name="spiffe://corp/admin")
    async with running(files) as port:
        assert await outcome(port, authority.pem, own) == "clusters a"
        assert port.seen.peers[0].identities == frozenset(found)


def test_connection_without_a_certificate_has_no_identities() -> None:
    assert identities({"transport_security_type": [b"insecure"]}) is None
    assert identities({"x509_pem_cert": [b"nonsense"], "peer_dns": [b"a.corp"]}) == frozenset()


def resumed(address: str, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSession:
    """Open a stream on a new connection, which resumes this session if there is one; return the one for the next."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), LIMIT_S) as plain,
        context.wrap_socket(plain, server_hostname=host, session=session) as wire,
    ):
        wire.sendall(opening(METHOD["delta"]))
        while wire.recv(65536):  # until the stream is opened there is nothing to read but settings
            if wire.session is not None:
                break
        assert wire.session_reused is (session is not None)
        assert wire.session is not None
        return wire.session


async def test_certificate_that_expires_counts_no_more_in_a_session_that_is_resumed(
    files: TlsFiles, authority: Authority, tmp_path: Path
) -> None:
    context = ssl.create_default_context(cafile=str(files.client_ca))
    context.load_cert_chain(*authority.issue(EDGE).write(tmp_path, "client"))
    context.set_alpn_protocols(["h2"])
    async with running(files) as port:
        session = await asyncio.to_thread(resumed, port.address, context, None)
        await until(lambda: len(port.seen.peers) == 1, within_s=LIMIT_S, what="the first stream")
        session = await asyncio.to_thread(resumed, port.address, context, session)
        await until(lambda: len(port.seen.peers) == 2, within_s=LIMIT_S, what="the resumed stream")
        assert port.seen.peers[0].identities == port.seen.peers[1].identities == frozenset({EDGE.value})
        port.now += 2 * DAY
        await asyncio.to_thread(resumed, port.address, context, session)
        await until(lambda: len(port.refused) == 1, within_s=LIMIT_S, what="the refusal")
        assert "the client's certificate has expired at 20" in port.refused[0]
        assert len(port.seen.peers) == 2


@both
async def test_identity_is_bound_to_its_node(files: TlsFiles, authority: Authority, protocol: str) -> None:
    async with running(files, rules()) as port, port.channel(authority.pem, authority.issue(EDGE)) as channel:
        other = Client(channel, protocol, "edge-2")
        await other.ask(CLUSTERS.url)
        code, text = await other.end()
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert text == "the identity 'spiffe://corp/edge/edge-1' may not be node 'edge-2' of the cluster 'edge'"
        client = Client(channel, protocol)
        await client.ask(CLUSTERS.url)
        assert str(await client.reply()) == "clusters a"
        client.call.cancel()


@both
async def test_unknown_identity_is_refused_before_it_says_anything(
    files: TlsFiles, authority: Authority, protocol: str
) -> None:
    stranger = authority.issue(dns("stranger.corp"))
    async with running(files, rules()) as port, port.channel(authority.pem, stranger) as channel:
        code, text = await Client(channel, protocol).end()
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert text == "the identity 'stranger.corp' is in no entry of the --xds-authz file"


@both
async def test_secret_goes_only_to_those_who_may_have_it(files: TlsFiles, authority: Authority, protocol: str) -> None:
    async with running(files, rules()) as port:
        async with port.channel(authority.pem, authority.issue(EDGE)) as channel:
            client = Client(channel, protocol)
            await client.ask(SECRETS.url, "tls")
            assert str(await client.reply()) == "secrets tls"
            await client.ask(SECRETS.url, "other")
            code, text = await client.end()
            assert (code, "'other'" in text) == (grpc.StatusCode.PERMISSION_DENIED, True)
        async with port.channel(authority.pem, authority.issue(dns("reader.corp"))) as channel:
            reader = Client(channel, protocol)
            await reader.ask(SECRETS.url, "tls")
            assert (await reader.end())[0] is grpc.StatusCode.PERMISSION_DENIED


@both
@pytest.mark.parametrize("type_url", [SECRETS.url, ""])
async def test_service_of_secrets_alone_is_no_way_around(
    files: TlsFiles, authority: Authority, protocol: str, type_url: str
) -> None:
    word = "Stream" if protocol == "sotw" else "Delta"
    method = f"/envoy.service.secret.v3.SecretDiscoveryService/{word}Secrets"
    async with running(files, rules()) as port, port.channel(authority.pem, authority.issue(EDGE)) as channel:
        for node_id, name in (("edge-2", "tls"), ("edge-1", "other")):
            client = Client(channel, protocol, node_id, method)
            await client.ask(type_url, name)
            assert (await client.end())[0] is grpc.StatusCode.PERMISSION_DENIED
        client = Client(channel, protocol, method=method)
        await client.ask(type_url, "tls")
        assert str(await client.reply()) == "secrets tls"
        client.call.cancel()


@both
@pytest.mark.parametrize("tls", [False, True])
async def test_without_rules_no_secret_is_served(
    files: TlsFiles, authority: Authority, protocol: str, tls: bool
) -> None:
    async with running(files if tls else None) as port:
        plain = grpc.aio.insecure_channel(port.address)
        async with port.channel(authority.pem, authority.issue(EDGE)) if tls else plain as channel:
            client = Client(channel, protocol)
            await client.ask(CLUSTERS.url)
            assert str(await client.reply()) == "clusters a"
            await client.ask(SECRETS.url, "tls")
            assert (await client.end())[0] is grpc.StatusCode.PERMISSION_DENIED
        await plain.close()


@both
async def test_new_rules_end_the_streams_of_those_who_may_less(
    files: TlsFiles, authority: Authority, protocol: str
) -> None:
    current = Current(rules())
    async with running(files, current) as port:
        edges = port.channel(authority.pem, authority.issue(EDGE))
        readers = port.channel(authority.pem, authority.issue(dns("reader.corp")))
        async with edges as first, readers as second:
            edge, reader = Client(first, protocol), Client(second, protocol)
            for client in (edge, reader):
                await client.ask(CLUSTERS.url)
                assert str(await client.reply()) == "clusters a"
            current.access = rules("gate")
            port.edge.recheck()
            text = "the identity 'spiffe://corp/edge/edge-1' may not be node 'edge-1' of the cluster 'edge'"
            assert await edge.end() == (grpc.StatusCode.PERMISSION_DENIED, text)
            assert [status.node.id for status in port.cache.connected()] == ["edge-1"]
            assert not reader.call.done()
            reader.call.cancel()
            again = Client(first, protocol)
            assert (await again.end())[0] is grpc.StatusCode.PERMISSION_DENIED


@both
async def test_new_rules_count_for_streams_that_go_on(files: TlsFiles, authority: Authority, protocol: str) -> None:
    current = Current(rules())
    async with running(files, current) as port, port.channel(authority.pem, authority.issue(EDGE)) as channel:
        client = Client(channel, protocol)
        await client.ask(SECRETS.url, "tls")
        reply = await client.reply()
        assert str(reply) == "secrets tls"
        current.access = rules(secrets="tls, other")
        port.edge.recheck()
        await client.ask(SECRETS.url, "tls", "other", nonce=reply.nonce)
        assert "other" in str(await client.reply())
        current.access = rules()
        port.edge.recheck()
        code, text = await client.end()
        assert (code, "no access to the secrets 'other'" in text) == (grpc.StatusCode.PERMISSION_DENIED, True)


async def test_new_certificates_count_for_new_connections(files: TlsFiles, authority: Authority) -> None:
    own, following = authority.issue(EDGE), Authority("next")
    async with running(files) as port, port.channel(authority.pem, own) as old_channel:
        old = Client(old_channel, "delta")
        await old.ask(CLUSTERS.url)
        assert str(await old.reply()) == "clusters a"
        server_files(files.cert.parent, following)
        assert await outcome(port, authority.pem, own) == "UNAVAILABLE"
        assert await outcome(port, following.pem, following.issue(EDGE)) == "clusters a"
        assert await outcome(port, following.pem, own) == "UNAVAILABLE"
        await old.ask(CLUSTERS.url, "a")
        assert str(await old.reply()) == "clusters a"
        old.call.cancel()
    assert [type(each) for each in port.told] == [Loaded]


async def test_broken_files_never_replace_good_ones(files: TlsFiles, authority: Authority) -> None:
    own = authority.issue(EDGE)
    renewed = authority.issue(dns("localhost"), address("127.0.0.1"), common_name="renewed")
    good = {path: path.read_bytes() for path in files.paths()}
    broken: dict[str, dict[Path, bytes | None]] = {
        "is not the key": {files.cert: renewed.cert},
        "ends in the middle": {files.cert: renewed.cert + renewed.cert[:99]},
        "holds no private key": {files.key: b""},
        "cannot be read": {files.key: None},
        "has expired": dict(zip(files.paths(), expired(authority), strict=False)),
        "--xds-client-ca": {files.client_ca or files.cert: b"nonsense"},
    }
    async with running(files) as port:
        for what, contents in broken.items():
            for path, content in contents.items():
                path.unlink() if content is None else path.write_bytes(content)
            for _ in range(2):  # the second look finds nothing new to tell
                assert await outcome(port, authority.pem, own) == "clusters a"
            told = port.told.pop()
            assert isinstance(told, InvalidConfig), what
            assert (what in str(told), port.told) == (True, []), told
            for path, content in good.items():
                path.write_bytes(content)
            assert await outcome(port, authority.pem, own) == "clusters a"
            assert isinstance(port.told.pop(), Loaded)


def expired(authority: Authority) -> tuple[bytes, bytes]:
    old = authority.issue(dns("localhost"), days=(-2, -1))
    return old.cert, old.key


async def test_certificate_replaced_by_a_link_counts(files: TlsFiles, authority: Authority, tmp_path: Path) -> None:
    """So mounted secrets are renewed: the files are links into a folder, and that is exchanged."""
    following, link = Authority("next"), tmp_path / "now"
    for name, who in (("one", authority), ("two", following)):
        (tmp_path / name).mkdir()
        server_files(tmp_path / name, who)
    link.symlink_to("one")
    linked = TlsFiles(*(link / path.name for path in files.paths()))
    async with running(linked) as port:
        assert await outcome(port, authority.pem, authority.issue(EDGE)) == "clusters a"
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").replace(link)
        assert await outcome(port, following.pem, following.issue(EDGE)) == "clusters a"


def spoil(files: TlsFiles, authority: Authority, fault: str) -> None:
    contents = {
        "no certificate": (files.cert, files.key.read_bytes()),
        "no key": (files.key, files.cert.read_bytes()),
        "key with password": (files.key, authority.issue(password=b"hidden").key),
        "other key": (files.key, authority.issue().key),
        "huge": (files.key, b"x" * 2_000_000),
        "no authority": (files.client_ca or files.cert, b""),
    }
    if fault in contents:
        path, content = contents[fault]
        path.write_bytes(content)
        return
    path, replace_it = {
        "missing": (files.cert, None),
        "folder": (files.cert, Path.mkdir),
        "pipe": (files.key, os.mkfifo),
    }[fault]
    path.unlink()
    if replace_it is not None:
        replace_it(path)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("missing", "server.pem: cannot be read: No such file or directory"),
        ("folder", "server.pem: is no file of at most 1 MiB; name a PEM file"),
        ("pipe", "server.key: is no file of at most 1 MiB; name a PEM file"),
        ("huge", "server.key: is no file of at most 1 MiB; name a PEM file"),
        ("no certificate", "server.pem: holds no certificates in PEM (-----BEGIN CERTIFICATE-----); --xds-cert needs"),
        ("no key", "server.key: holds no private key in PEM without a password; --xds-key needs one"),
        ("key with password", "server.key: holds no private key in PEM without a password; --xds-key needs one"),
        ("other key", "server.key: is not the key of the first certificate in "),
        ("expired", "server.pem: has expired at 20"),
        ("early", "look at this host's clock"),
        ("no authority", "client-ca.pem: holds no certificates in PEM"),
    ],
)
def test_start_says_what_is_wrong_with_the_files(files: TlsFiles, authority: Authority, fault: str, text: str) -> None:
    now = datetime.now(UTC)
    if fault in ("expired", "early"):
        now += 2 * DAY if fault == "expired" else -2 * DAY
    else:
        spoil(files, authority, fault)
    with pytest.raises(InvalidConfig) as caught:
        load(files, now)
    assert text in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_what_was_loaded_says_names_and_end(files: TlsFiles) -> None:
    loaded = load(files, datetime.now(UTC))
    assert loaded.names == ("localhost",)
    assert loaded.expires_at - datetime.now(UTC) < DAY
