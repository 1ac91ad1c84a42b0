"""The server's TLS and rules from its options and files; and no word of a secret in what it says."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
import yaml
from structlog.testing import capture_logs
from typer.testing import CliRunner

from rollout.app import Listening, serve
from rollout.bootstrap import Proxy, XdsTls, bootstrap
from rollout.cli import app
from rollout.demo.processes import until
from rollout.demo.world import configuration
from rollout.errors import RolloutError
from rollout.settings import Settings
from tests.xds.certificates import Authority, server_files, uri
from tests.xds.client import Wire
from xds import proto
from xds.cache import Cache
from xds.edge.grpcio import SERVICE
from xds.errors import XdsError
from xds.resources import CLUSTERS

MARK = "hunter2"
READ_ONLY = ("/healthz", "/readyz", "/metrics", "/v1/services", "/v1/services/checkout", "/v1/rollouts", "/v1/fleet")
GOOD = {"name": "site", "generic_secret": {"secret": {"inline_string": MARK}}}
BROKEN: dict[str, Any] = {
    "text for a mapping": {"name": "site", "generic_secret": MARK},
    "text for a source": {"name": "site", "generic_secret": {"secret": MARK}},
    "list for a source": {"name": "site", "tls_certificate": {"private_key": [MARK]}},
    "text for a list": {"name": "site", "session_ticket_keys": {"keys": MARK}},
    "mapping for a text": {"name": "site", "generic_secret": {"secret": {"inline_string": {MARK: MARK}}}},
    "list for bytes": {"name": "site", "generic_secret": {"secret": {"inline_bytes": [MARK]}}},
    "no field": {"name": "site", "generic_secret": {MARK: ""}},
    "no type": {"name": "site", "tls_certificate": {"private_key_provider": {"typed_config": {"@type": MARK}}}},
    "no fields": {"name": "site", "tls_certificate": {"private_key_provider": {"typed_config": MARK}}},
    "two of one": {"name": "site", "generic_secret": {"secret": {"inline_string": MARK, "filename": MARK}}},
    "no name": {"generic_secret": {"secret": {"inline_string": MARK}}},
    "no enum": {"name": "site", "validation_context": {"trust_chain_verification": MARK}},
}
UNQUOTED = (
    f"!{MARK}",
    f"*{MARK}",
    f"!!int {MARK}",
    f"!!bool {MARK}",
    f"@{MARK}",
    f'"{MARK}',
    f"[{MARK}",
    f"{MARK}: x: y",
)


def write(folder: Path, *secrets: object) -> None:
    folder.mkdir(exist_ok=True)
    content = configuration(["127.0.0.1:9001", "127.0.0.1:9011"])
    (folder / "shop.yaml").write_text(yaml.safe_dump({**content, "secrets": list(secrets)}))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write(tmp_path / "configs")
    return Settings(tmp_path / "configs", tmp_path / "data", "127.0.0.1:0", "127.0.0.1:0")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def secured(settings: Settings, tmp_path: Path, authority: Authority) -> Settings:
    """Settings with mutual TLS and rules."""
    files = server_files(tmp_path, authority)
    allow(tmp_path / "authz.yaml", "edge-1")
    return replace(
        settings,
        xds_cert=files.cert,
        xds_key=files.key,
        xds_client_ca=files.client_ca,
        xds_authz=tmp_path / "authz.yaml",
    )


def allow(path: Path, name: str) -> None:
    client = {"identity": f"spiffe://corp/{name}", "node_ids": ["edge-1"], "node_clusters": ["edge"]}
    path.write_text(yaml.safe_dump({"clients": [client]}))


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Listening]:
    listening: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        server = group.create_task(serve(settings, listening.set_result))
        await asyncio.wait((server, listening), return_when=asyncio.FIRST_COMPLETED, timeout=30)
        if not server.done():
            yield listening.result()
            server.cancel()


async def refusal(settings: Settings) -> str:
    with pytest.raises((RolloutError, XdsError)) as caught:
        await asyncio.wait_for(serve(settings, lambda _: None), 30)
    return str(caught.value)


@pytest.mark.parametrize(
    ("left_out", "text"),
    [
        ("xds_key", "--xds-cert and --xds-key go together"),
        ("xds_cert", "--xds-cert and --xds-key go together"),
        ("xds_client_ca", "--xds-authz needs clients with certificates: give --xds-client-ca too"),
        ("xds_cert xds_key", "--xds-client-ca needs TLS: give --xds-cert and --xds-key too"),
    ],
)
async def test_half_of_tls_is_refused(secured: Settings, left_out: str, text: str) -> None:
    missing: dict[str, Any] = dict.fromkeys(left_out.split())
    assert text in await refusal(replace(secured, **missing))


async def test_start_refuses_bad_certificates_and_rules(secured: Settings, tmp_path: Path) -> None:
    assert "nowhere: cannot be read" in await refusal(replace(secured, xds_cert=tmp_path / "nowhere"))
    assert "cannot read --xds-authz" in await refusal(replace(secured, xds_authz=tmp_path / "nowhere"))
    assert "must be a list of clients" in await refusal(replace(secured, xds_authz=tmp_path / "configs" / "shop.yaml"))


@pytest.mark.parametrize(
    ("address", "without", "text"),
    [
        ("0.0.0.0:0", "xds_cert xds_key xds_client_ca xds_authz", "speaks plain text"),
        ("0.0.0.0:0", "xds_client_ca xds_authz", "asks for no certificate"),
        ("0.0.0.0:0", "xds_authz", None),
        ("127.0.0.1:0", "xds_cert xds_key xds_client_ca xds_authz", None),
    ],
)
async def test_port_that_others_can_reach_is_warned_of(
    secured: Settings, address: str, without: str, text: str | None
) -> None:
    missing: dict[str, Any] = dict.fromkeys(without.split())
    with capture_logs() as logs:
        async with running(replace(secured, xds=address, **missing)):
            pass
    warnings = [each["warning"] for each in logs if each["event"] == "open to others"]
    assert len(warnings) == (text is not None)
    assert text is None or text in warnings[0]


async def test_secrets_that_nobody_may_have_are_warned_of(settings: Settings, secured: Settings) -> None:
    write(settings.configs, GOOD)
    for each, warned in ((settings, True), (replace(secured, xds_authz=None), True), (secured, False)):
        with capture_logs() as logs:
            async with running(each):
                pass
        assert any(entry["event"] == "secrets are not served" for entry in logs) is warned


class Edge:
    """A client with a certificate."""

    def __init__(self, address: str, authority: Authority) -> None:
        own = authority.issue(uri("spiffe://corp/edge-1"))
        credentials = grpc.ssl_channel_credentials(authority.pem, own.key, own.cert)
        self.channel = grpc.aio.secure_channel(address, credentials)

    async def connect(self) -> Any:
        """Ask for clusters; return the stream."""
        call = self.channel.stream_stream(f"/{SERVICE}/DeltaAggregatedResources")()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await call.write(Wire(Cache(), "delta").encode({"type_url": CLUSTERS.url}))
        return call


async def code(call: Any) -> grpc.StatusCode:
    async with asyncio.timeout(30):
        return await call.code()


async def test_reload_takes_new_rules_and_keeps_the_last_good_ones(secured: Settings, authority: Authority) -> None:
    assert secured.xds_authz is not None
    with capture_logs() as logs:
        async with running(secured) as listening, aiohttp.ClientSession(f"http://{listening.admin}") as http:
            edge = Edge(listening.xds, authority)
            call = await edge.connect()
            async with asyncio.timeout(30):
                await call.read()
            secured.xds_authz.write_text("clients: [{identty: x}]")
            async with http.post("/v1/config/reload", json={}) as answer:
                assert (answer.status, "clients[0].identty: is no field" in await answer.text()) == (422, True)
            write(secured.configs, BROKEN["no name"])
            allow(secured.xds_authz, "edge-1")
            async with http.post("/v1/config/reload", json={}) as answer:
                assert answer.status == 422
            assert not call.done()
            allow(secured.xds_authz, "edge-2")
            os.kill(os.getpid(), signal.SIGHUP)
            assert await code(call) is grpc.StatusCode.PERMISSION_DENIED
            assert await code(await edge.connect()) is grpc.StatusCode.PERMISSION_DENIED
            await edge.channel.close()
    refused = [each for each in logs if each["event"] == "refused"]
    assert [each["identities"] for each in refused] == [["spiffe://corp/edge-1"]] * 2
    assert [each["reason"] for each in refused] == [
        "the identity 'spiffe://corp/edge-1' may not be node 'edge-1' of the cluster 'edge'",
        "the identity 'spiffe://corp/edge-1' is in no entry of the --xds-authz file",
    ]


@pytest.mark.parametrize("fault", BROKEN)
def test_fault_in_a_secret_is_told_without_the_secret(tmp_path: Path, fault: str) -> None:
    write(tmp_path / "configs", BROKEN[fault])
    for options in ((), ("--json",)):
        result = CliRunner().invoke(app, ["lint", str(tmp_path / "configs"), *options])
        assert (result.exit_code, "secrets[0]" in result.output) == (1, True)
        assert MARK not in result.output


@pytest.mark.parametrize("text", UNQUOTED)
def test_secret_without_quotes_that_is_no_yaml_is_not_told(tmp_path: Path, text: str) -> None:
    content = f"secrets:\n- name: site\n  generic_secret: {{secret: {{inline_string: {text}}}}}\n"
    write(tmp_path / "configs")
    (tmp_path / "configs" / "site.yaml").write_text(content)
    result = CliRunner().invoke(app, ["lint", str(tmp_path / "configs")])
    assert (result.exit_code, "is no YAML" in result.output, MARK in result.output) == (1, True, False)


def test_fault_in_an_inline_source_is_told_without_its_value(tmp_path: Path) -> None:
    content = configuration(["127.0.0.1:9001"])
    context = {
        "common_tls_context": {"tls_certificates": [{"private_key": MARK}, {"password": {"inline_string": 77123}}]}
    }
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    for certificate in context["common_tls_context"]["tls_certificates"]:
        one = {"@type": kind, "common_tls_context": {"tls_certificates": [certificate]}}
        content["clusters"][0]["transport_socket"] = {"name": "tls", "typed_config": one}
        (tmp_path / "shop.yaml").write_text(yaml.safe_dump(content))
        result = CliRunner().invoke(app, ["lint", str(tmp_path)])
        assert (result.exit_code, "what is given is not " in result.output) == (1, True)
        assert MARK not in result.output
        assert "77123" not in result.output


async def test_no_word_of_a_secret_in_log_and_api(secured: Settings) -> None:
    write(secured.configs, GOOD)
    with capture_logs() as logs:
        async with running(secured) as listening, aiohttp.ClientSession(f"http://{listening.admin}") as http:
            said = []
            for path in READ_ONLY:
                async with http.get(path) as answer:
                    said.append(await answer.text())
            for broken in BROKEN.values():
                write(secured.configs, broken)
                async with http.post("/v1/config/reload", json={}) as answer:
                    assert answer.status == 422
                    said.append(await answer.text())
            before = len(logs)
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: len(logs) > before, within_s=30, what="the reload")
        write(secured.configs, BROKEN["text for a source"])
        said.append(await refusal(secured))
    assert MARK not in "\n".join(said)
    assert MARK not in repr(logs)


def bootstrap_cluster(*options: str) -> Any:
    command = ["bootstrap", "--node-id", "e", "--location", "eu", "--stats", "10.0.0.1:1", "--json", *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["static_resources"]["clusters"][0]


@pytest.mark.parametrize(
    ("options", "kind", "name", "sni"),
    [
        (("--xds", "cp.corp:1"), "DNS", "cp.corp", "cp.corp"),
        (("--xds", "10.1.2.3:1"), "IP_ADDRESS", "10.1.2.3", None),
        (("--xds", "[fd00::1]:1"), "IP_ADDRESS", "fd00::1", None),
        (("--xds", "10.1.2.3:1", "--xds-name", "cp.corp"), "DNS", "cp.corp", "cp.corp"),
        (("--xds", "cp.corp:1", "--xds-name", "spiffe://corp/cp"), "URI", "spiffe://corp/cp", "cp.corp"),
    ],
)
def test_bootstrap_trusts_only_the_control_planes_name(
    options: tuple[str, ...], kind: str, name: str, sni: str | None
) -> None:
    found = bootstrap_cluster(*options, "--xds-ca", "/ca.pem", "--xds-cert", "/own.pem", "--xds-key", "/own.key")
    context = found["transport_socket"]["typed_config"]
    assert context.get("sni") == sni
    assert context["common_tls_context"] == {
        "alpn_protocols": ["h2"],
        "validation_context": {
            "trusted_ca": {"filename": "/ca.pem"},
            "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": name}}],
        },
        "tls_certificates": [{"certificate_chain": {"filename": "/own.pem"}, "private_key": {"filename": "/own.key"}}],
    }


def test_bootstrap_is_one_that_envoys_api_knows() -> None:
    tls = XdsTls("/ca.pem")
    document = bootstrap(Proxy("e", "edge", "eu", "", "cp.corp:1", "10.0.0.1:1", tls=tls))
    proto.parse("envoy.config.bootstrap.v3.Bootstrap", document)
    assert "tls_certificates" not in repr(document)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--xds-cert", "/own.pem"), "--xds-cert and --xds-key go together"),
        (("--xds-cert", "/own.pem", "--xds-key", "/own.key"), "--xds-ca is missing"),
        (("--xds-name", "cp.corp"), "--xds-ca is missing"),
    ],
)
def test_bootstrap_refuses_half_of_tls(options: tuple[str, ...], text: str) -> None:
    result = CliRunner().invoke(app, ["bootstrap", "--node-id", "e", "--location", "eu", *options])
    assert (result.exit_code, text in result.output) == (1, True)
