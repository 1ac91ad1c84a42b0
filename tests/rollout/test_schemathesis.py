"""The API is what its document says: a real server is sent what fits it and what does not, made up by schemathesis."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.rollout.served import running, settings_in

ROOT_TOKEN = "root-of-all-tests"  # noqa: S105 - of a server on loopback that lives for some seconds
LIMIT_S = 300
# A wait may be asked for that is longer than any test.
CONFIG = '[parameters]\n"query.wait" = "10ms"\n'
# Of a service that there is, more can be said than that there is none.
KNOWN = CONFIG + '"path.service" = "checkout"\n"path.id" = "last"\n'
LEFT_OUT = (
    # Much is right by its form only: weights that do not rise, addresses that are none, cursors of another list. These
    # are refused with 400 and words, which no schema can say beforehand.
    "positive_data_acceptance",
    # It shows wrong tokens, and after ten of these nobody at its address is heard any more: test_access*.py do that.
    "ignored_auth",
)
COMMON = (
    *("--generation-with-security-parameters", "false", "--generation-database", "none"),
    *("--no-color", "--seed", "1", "--no-shrink", "--continue-on-failure"),
)


async def findings(address: str, folder: Path, token: str, *options: str) -> str:
    """Return what schemathesis finds wrong with the API at an address, "" for nothing."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("st"),
        "run",
        f"http://{address}/v1/openapi.json",
        *("-H", f"Authorization: Bearer {token}"),
        *COMMON,
        *options,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode() if process.returncode else ""


@pytest.mark.parametrize(
    ("phase", "most_s", "config"),
    [
        ("coverage", 30, CONFIG),  # it ends by itself, mostly in half of that
        ("fuzzing", 6, KNOWN),
    ],
    ids=("coverage", "fuzzing"),
)
async def test_the_api_keeps_to_its_document(tmp_path: Path, phase: str, most_s: int, config: str) -> None:
    (tmp_path / "schemathesis.toml").write_text(config)
    async with running(replace(settings_in(tmp_path), token=ROOT_TOKEN)) as server:
        options = ("--checks", "all", "--exclude-checks", ",".join(LEFT_OUT), "--phases", phase)
        found = await findings(
            server.listening.admin, tmp_path, ROOT_TOKEN, *options, "--max-time", str(most_s), "--max-examples", "10"
        )
    assert not found, found[-20_000:]


async def test_a_viewer_is_refused_as_documented(tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(KNOWN)
    async with running(replace(settings_in(tmp_path), token=ROOT_TOKEN)) as server:
        headers = {"Authorization": f"Bearer {ROOT_TOKEN}"}
        body = {"name": "watcher", "role": "viewer"}
        async with server.http.post("/v1/tokens", json=body, headers=headers) as answer:
            assert answer.status == 201
            token = (await answer.json())["token"]
        checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
        options = ("--checks", checks, "--phases", "fuzzing", "--max-time", "4", "--max-examples", "3")
        found = await findings(server.listening.admin, tmp_path, token, *options)
    assert not found, found[-20_000:]
