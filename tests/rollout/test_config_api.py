"""What the API says of the configuration that is served: its files, what was refused, and no secret."""

import os
import signal
from pathlib import Path
from typing import Any

from rollout.demo.processes import until
from tests.rollout.served import Running, running, settings_in

SECRETS = """
secrets:
- name: key
  tls_certificate:
    private_key: { inline_string: "the very secret" }
clusters:
- name: away
  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
      common_tls_context:
        tls_certificates:
        - private_key: { inline_string: "the very secret" }
"""


async def get(server: Running, path: str) -> Any:
    async with server.http.get(path) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def test_config_names_its_files_with_what_is_in_them(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    (settings.configs / "edge").mkdir()
    (settings.configs / "edge" / "own.yaml").write_text(SECRETS)
    async with running(settings) as server:
        config = await get(server, "/v1/config")
        assert config["snapshot"] == (await get(server, "/readyz"))["snapshot"]
        common, own = config["files"]
        assert common["resources"] == {"clusters": 1, "endpoints": 1, "listeners": 1, "routes": 1}
        assert own == {
            "path": str(settings.configs / "edge" / "own.yaml"),
            "group": "edge",
            "resources": {"secrets": 1, "clusters": 1},
        }
        assert (config["last_refused"], config["loaded_at"] is None) == (None, False)


async def test_a_refused_change_is_told_with_who_asked_for_it(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    good = (settings.configs / "shop.yaml").read_text()
    async with running(settings) as server:
        before = await get(server, "/v1/config")
        (settings.configs / "shop.yaml").write_text("clusters:\n- name: a\n  typo: 1\n")
        async with server.http.post("/v1/config/reload", json={}, headers={"X-Rollout-User": "ann"}) as answer:
            assert answer.status == 422
        refused = (await get(server, "/v1/config"))["last_refused"]
        assert (refused["by"], len(refused["problems"])) == ("ann", 1)
        assert "shop.yaml" in refused["problems"][0]["where"]
        assert "typo" in str(refused["problems"])
        os.kill(os.getpid(), signal.SIGHUP)

        async def refused_again() -> bool:
            return bool((await get(server, "/v1/config"))["last_refused"]["by"] == "SIGHUP")

        await until(refused_again, within_s=60, what="the signal to be heard")
        config = await get(server, "/v1/config")
        assert {**config, "last_refused": None} == before
        (settings.configs / "shop.yaml").write_text(good)
        async with server.http.post("/v1/config/reload", json={}) as answer:
            assert answer.status == 200
        assert (await get(server, "/v1/config"))["loaded_at"] > before["loaded_at"]


async def test_resources_are_as_they_are_served_without_secrets(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    (settings.configs / "edge").mkdir()
    (settings.configs / "edge" / "own.yaml").write_text(SECRETS)
    async with running(settings) as server:
        found = (await get(server, "/v1/config/resources?contents=true"))["resources"]
        assert "the very secret" not in str(found)
        by_name = {(each["type"], each["name"]): each for each in found}
        assert by_name["secrets", "key"]["resource"] == {"name": "key", "secret": "[redacted]"}
        assert by_name["clusters", "away"]["groups"] == ["edge"]
        assert "[redacted]" in str(by_name["clusters", "away"]["resource"])
        assert by_name["clusters", "checkout@initial"]["groups"] == ["", "edge"]
        assert "9001" in str(by_name["endpoints", "checkout@initial"]["resource"])
        (one,) = (await get(server, "/v1/config/resources?type=clusters&name=away"))["resources"]
        assert one == {**by_name["clusters", "away"], "resource": None}
        first = await get(server, "/v1/config/resources?limit=2")
        rest = await get(server, f"/v1/config/resources?cursor={first['next']}")
        assert len(first["resources"]) == 2
        assert [*first["resources"], *rest["resources"]] == [{**each, "resource": None} for each in found]
