"""All verbs, each by the module that has it, which is imported when the verb is called."""

from collections import UserDict
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer.main
from typer.core import TyperGroup

VERBS: Mapping[str, Mapping[str, str]] = {
    "rollout": {
        "serve": "serving.serve",
        "deploy": "services.deploy",
        "status": "services.status",
        "watch": "services.watch",
        "list": "services.list_services",
        "plan": "declared.plan",
        "apply": "declared.apply",
        "export": "declared.export",
        "undo": "operations.undo",
        "retry": "operations.retry",
        "dequeue": "operations.dequeue",
        "promote": "commands.promote",
        "skip-stage": "commands.skip_stage",
        "approve": "commands.approve",
        "reject": "commands.reject",
        "pause": "commands.pause",
        "resume": "commands.resume",
        "abort": "commands.abort",
        "history": "services.history",
        "explain": "services.explain",
        "replay": "recordings.replay",
        "drain": "operations.drain",
        "undrain": "operations.undrain",
        "scale": "operations.scale",
        "log": "operations.log",
        "events": "events.events",
        "mark": "operations.mark",
        "adopt": "operations.adopt",
        "fleet": "envoys.fleet",
        "lint": "linting.lint_files",
        "schema": "linting.schema",
        "openapi": "contract.openapi",
        "bootstrap": "envoys.bootstrap",
        "simulate": "offline.simulate",
        "forecast": "forecasting.forecast",
    },
    "audit": {"list": "audit.list_rows", "verify": "auditing.verify"},
    "discovery": {
        "list": "discovering.list_sources",
        "set": "discovering.set_source",
        "remove": "discovering.remove_source",
    },
    "config": {"reload": "envoys.reload", "show": "configs.show"},
    "version": {"list": "operations.list_versions", "remove": "operations.remove_version"},
    "notify": {"list": "notifying.list_targets", "test": "notifying.send_test", "check": "notifying.check"},
    "strategy": {
        "list": "strategies.list_strategies",
        "show": "strategies.show",
        "put": "strategies.put",
        "remove": "strategies.remove",
    },
    "token": {"create": "tokens.create", "list": "tokens.list_tokens", "revoke": "tokens.revoke"},
    "store": {"check": "storing.check", "backup": "storing.backup", "restore": "storing.restore"},
}
"""By group and name: MODULE.FUNCTION in this folder."""


class Verbs(TyperGroup):
    """The verbs of the group that has this name.

    By name, not by import: with the server and what else one verb of many needs, each call of the command line would
    spend most of a second on imports. typer has no way of its own; click's is a group that finds its commands late.
    """

    def __init__(self, *, name: str | None = None, **attributes: Any) -> None:
        super().__init__(name=name, **attributes)
        self.commands = _Late({**VERBS[name or ""], **self.commands})


class _Late(UserDict[str, Any]):
    """Commands by name; what is only named yet is imported when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        return _command(name, found) if isinstance(found, str) else found


def _command(name: str, place: str) -> Any:
    module, _, function = place.partition(".")
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command(name)(getattr(import_module(f"rollout.cli.{module}"), function))
    return typer.main.get_command(alone)
