"""A real Envoy over mutual TLS: its own certificate comes by SDS, and it is only who its certificate says."""

import asyncio
import contextlib
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from rollout.bootstrap import Proxy, XdsTls, bootstrap
from rollout.demo.processes import PACKAGE_PARENT, Envoy, Process, free_port, until
from tests.xds.certificates import Authority, Issued, dns, server_files, uri
from tests.xds.client import ADS, HTTP, PROTOCOLS, ROUTER
from xds.edge.tls import TlsFiles

pytestmark = pytest.mark.envoy
LONG_S = 30.0
SITE = "shop.test"
DOWNSTREAM_TLS = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
READ_ONLY = ("/healthz", "/readyz", "/metrics", "/v1/services", "/v1/rollouts", "/v1/fleet")


def listener() -> dict[str, Any]:
    """Return a listener that answers by itself, with the certificate `site` of SDS."""
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "hello"}}}
    manager = {
        "@type": f"type.googleapis.com/{HTTP}",
        "stat_prefix": "edge",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"type.googleapis.com/{ROUTER}"}}],
    }
    site = {"name": "site", "sds_config": ADS}
    context = {
        "@type": f"type.googleapis.com/{DOWNSTREAM_TLS}",
        "common_tls_context": {"tls_certificate_sds_secret_configs": [site]},
    }
    chain = {
        "filters": [{"name": "http", "typed_config": manager}],
        "transport_socket": {"name": "tls", "typed_config": context},
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return {"name": "edge", "address": address, "filter_chains": [chain]}


def secret(own: Issued) -> dict[str, Any]:
    certificate = {
        "certificate_chain": {"inline_string": own.cert.decode()},
        "private_key": {"inline_string": own.key.decode()},
    }
    return {"name": "site", "tls_certificate": certificate}


class Place:
    """A rollout server with mutual TLS, and Envoys that follow it."""

    def __init__(self, folder: Path, protocol: str) -> None:
        self.folder = folder
        self.delta = protocol == "delta"
        self.authority = Authority("xds")
        self.sites = Authority("sites")
        self.files: TlsFiles = server_files(folder, self.authority)
        self.server = Process("server", folder)
        self.xds, self.admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.envoys: list[Envoy] = []
        self.planted: list[Issued] = []
        (folder / "envoy-configs").mkdir()

    def allow(self, secrets: list[str], node_ids: str = "{*}") -> None:
        client = {"identity": "spiffe://corp/edge/*", "node_ids": [node_ids], "node_clusters": ["edge"]}
        self.write("authz.yaml", {"clients": [{**client, "secrets": secrets}]})

    def plant(self) -> Issued:
        """Serve another certificate as the secret `site`."""
        own = self.sites.issue(dns(SITE), common_name=f"site-{len(self.planted)}")
        self.planted.append(own)
        self.write("envoy-configs/edge.yaml", {"listeners": [listener()], "secrets": [secret(own)]})
        return own

    def write(self, name: str, content: object) -> None:
        (self.folder / name).write_text(yaml.safe_dump(content))

    async def serve(self) -> None:
        options = {
            "--configs": self.folder / "envoy-configs",
            "--data": self.folder / "data",
            "--xds": self.xds,
            "--admin": self.admin,
            "--xds-cert": self.files.cert,
            "--xds-key": self.files.key,
            "--xds-client-ca": self.files.client_ca,
            "--xds-authz": self.folder / "authz.yaml",
        }
        words = (str(word) for pair in options.items() for word in pair)
        await self.server.start(sys.executable, "-m", "rollout.cli", "serve", *words, cwd=PACKAGE_PARENT)
        await self.server.until(lambda: "xDS on" in self.log(), within_s=LONG_S, what="the server to be ready")

    def log(self) -> str:
        return self.server.output.read_text()

    def reload(self) -> None:
        """Have the server read its files again."""
        assert self.server._process is not None
        self.server._process.send_signal(signal.SIGHUP)

    async def envoy(self, node_id: str, identity: str) -> Envoy:
        cert, key = self.authority.issue(uri(f"spiffe://corp/edge/{identity}")).write(self.folder, identity)
        tls = XdsTls(str(self.files.client_ca), str(cert), str(key))
        proxy = Proxy(node_id, "edge", "eu", "eu-1", self.xds, "127.0.0.1:0", delta=self.delta, tls=tls)
        made = Envoy(f"{node_id}-of-{identity}", bootstrap(proxy), self.folder)
        self.envoys.append(made)
        await made.start()
        return made

    async def ask(self, envoy: Envoy) -> bytes:
        """Ask an Envoy for its page; return the certificate, in DER, with which it answered."""
        host, _, port = (await envoy.listeners())["edge"].rpartition(":")
        context = ssl.create_default_context(cadata=self.sites.pem.decode())
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=SITE)
        writer.write(b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")
        assert b"hello" in await reader.read()
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return certificate

    async def until_answered_with(self, envoy: Envoy, own: Issued) -> None:
        async def answered() -> bool:
            return await self.ask(envoy) == ssl.PEM_cert_to_DER_cert(own.cert.decode())

        await until(answered, within_s=LONG_S, what="the newest certificate")

    async def fleet(self) -> dict[str, bool]:
        """Return who is connected, by node id."""
        async with aiohttp.ClientSession() as http, http.get(f"http://{self.admin}/v1/fleet") as answer:
            return {node["node"]: node["connected"] for node in (await answer.json())["nodes"]}

    async def until_fleet(self, wanted: dict[str, bool]) -> None:
        async def is_so() -> bool:
            return await self.fleet() == wanted

        await until(is_so, within_s=LONG_S, what=f"the fleet to be {wanted}")

    async def said(self) -> str:
        """Return all that the server says to those who ask and to its log."""
        texts = [self.log()]
        async with aiohttp.ClientSession(f"http://{self.admin}") as http:
            for path in READ_ONLY:
                async with http.get(path) as answer:
                    texts.append(await answer.text())
        return "\n".join(texts)

    async def end(self) -> None:
        for envoy in self.envoys:
            await envoy.kill()
        await self.server.kill()


@pytest.fixture(params=PROTOCOLS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path, request.param)
    try:
        yield made
    finally:
        await made.end()


def marks(planted: list[Issued]) -> list[str]:
    """Return lines of the keys, which must stand nowhere."""
    return [line for own in planted for line in own.key.decode().splitlines() if "-----" not in line]


async def test_certificate_comes_by_sds_over_mutual_tls_and_follows_its_owner(place: Place) -> None:
    place.allow(["site"])
    first = place.plant()
    await place.serve()
    envoy = await place.envoy("edge-1", "edge-1")
    await envoy.until_ready()
    await place.until_answered_with(envoy, first)
    second = place.plant()
    place.reload()
    await place.until_answered_with(envoy, second)

    # The xDS port's own certificates move to a new authority: the stream in use goes on, and new ones need the new.
    server_files(place.folder, Authority("next"))
    other = await place.envoy("edge-2", "edge-2")
    await until(lambda: "xDS certificate loaded" in place.log().partition("xDS on")[2], within_s=LONG_S, what="the new")
    third = place.plant()
    place.reload()
    await place.until_answered_with(envoy, third)
    assert await place.fleet() == {"edge-1": True}
    assert not await other.is_ready()
    said = await place.said()
    assert [mark for mark in marks(place.planted) if mark in said] == []


async def test_envoy_that_may_not_be_this_node_is_refused_and_keeps_what_it_has(place: Place) -> None:
    place.allow(["site"])
    own = place.plant()
    await place.serve()
    thief = await place.envoy("edge-1", "edge-9")
    await until(lambda: "may not be node 'edge-1'" in place.log(), within_s=LONG_S, what="the thief to be refused")
    envoy = await place.envoy("edge-1", "edge-1")
    await envoy.until_ready()
    assert not await thief.is_ready()
    await thief.kill()
    for refusal in ("has changed", "no access"):
        place.allow([] if refusal == "no access" else ["site"], "gate-*" if refusal == "has changed" else "{*}")
        place.reload()
        await place.until_fleet({"edge-1": False})
        await place.until_answered_with(envoy, own)
        place.allow(["site"])
        place.reload()
        await place.until_fleet({"edge-1": True})
    assert "no access to the secrets 'site'" in place.log()
    said = await place.said()
    assert [mark for mark in marks(place.planted) if mark in said] == []
