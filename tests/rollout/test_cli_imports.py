"""What a call of the command line imports: its own verb, and nothing of the server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rollout.cli.verbs import VERBS

ROOT = Path(__file__).parents[2]
OF_THE_SERVER = {"rollout.app", "rollout.controller", "rollout.store", "xds.cache", "grpc", "sqlite_utils", "structlog"}
ITS_OWN = {"serving", "storing", "recordings", "linting", "offline", "forecasting", "contract", "auditing"}
CALLS = """
import contextlib, io, json, sys
from rollout.cli import main

for call in json.loads(sys.argv[1]):
    sys.argv = ["rollout", *call]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main()
print(json.dumps(sorted(sys.modules)))
"""


def imported(*calls: list[str]) -> set[str]:
    """Return the modules of a process after these calls of `rollout`."""
    process = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(calls)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=30,
        text=True,
    )
    return set(json.loads(process.stdout))


def test_verbs_that_ask_the_server_import_nothing_of_it() -> None:
    asking = [
        [*([] if group == "rollout" else [group]), verb, "--help"]
        for group, verbs in VERBS.items()
        for verb, place in verbs.items()
        if place.partition(".")[0] not in ITS_OWN
    ]
    modules = imported(*asking)
    assert {"rollout.cli.operations", "rollout.cli.services", "rollout.cli.commands", "rollout.cli.envoys"} < modules
    assert modules & (OF_THE_SERVER | {f"rollout.cli.{each}" for each in ITS_OWN}) == set()


def test_the_version_needs_no_verb() -> None:
    modules = imported(["--version"])
    assert {each for each in modules if each.startswith(("rollout.", "aiohttp", "pydantic"))} == {
        "rollout.cli",
        "rollout.cli.options",
        "rollout.cli.verbs",
        "rollout.errors",
        "rollout.settings",
    }


@pytest.mark.parametrize(("call", "needed"), [("serve", "rollout.app"), ("store check", "rollout.store")])
def test_a_verb_of_its_own_is_imported_when_it_is_called(call: str, needed: str) -> None:
    assert needed in imported([*call.split(), "--help"])
