"""The verbs of notifications: who is told and how it stands with them, a test, and a check of the file."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from rollout import screen
from rollout.caller import DONE, FAILED, Caller
from rollout.cli.options import UNSAID, AsJson, Server
from rollout.client import Client, path_of
from rollout.notify.loading import load
from rollout.notify.plan import unwise
from rollout.screen.notices import targets_table, tested
from xds.errors import XdsError

TEST_S = 310.0  # a target may be given five minutes for one message


def list_targets(*, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """List who is notified: where, when last, what waits, and what is wrong."""
    Caller(server, as_json).get(path_of("notify"), targets_table)


def send_test(
    target: Annotated[str | None, typer.Argument(help="One target of the file; without: all.")] = None,
    *,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Send a message to TARGET, or to all; exits with 1 when one does not take it.

    Example: rollout notify test oncall
    """
    caller = Caller(server, as_json)

    async def work(client: Client) -> int:
        client.limit_s = TEST_S
        answer = await client.post(path_of("notify", "test"), {} if target is None else {"target": target})
        caller.show(answer, tested)
        return DONE if all(each["delivered"] for each in answer["targets"]) else FAILED

    caller.run(work)


def check(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FILE", help="YAML.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Check a file of notifications, with the addresses that it names; no server is needed, and nothing is sent.

    Every problem in a line of its own. The addresses are read as the server would: from the environment of this call,
    and from files.
    """
    caller = Caller("", as_json)
    apprise = import_module("rollout.notify.post")  # some hundred modules, which no other verb should load
    try:
        plan = load(file, apprise.check).plan
    except XdsError as error:
        caller.fail(error)
    warnings = unwise(plan)
    names = ", ".join(plan.targets) or "none"
    answer = {"targets": list(plan.targets), "rules": len(plan.rules), "warnings": warnings}
    fine = f"{file} is fine; rules: {len(plan.rules)}, targets: {names}"
    caller.show(answer, lambda _: screen.notes(warnings, fine))
