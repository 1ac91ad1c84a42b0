"""Whether this server may and can do what a strategy asks of it: run its commands, and sign what hooks are told."""

from collections.abc import Callable
from dataclasses import dataclass

from rollout.errors import InvalidSpec
from rollout.hooks import Hook
from rollout.metrics.sources import Commands
from rollout.spec import Strategy


@dataclass(frozen=True, slots=True)
class Permit:
    """`secret` gives the value of an environment variable, None where there is none."""

    commands: Commands
    secret: Callable[[str], str | None]

    def check(self, strategy: Strategy) -> None:
        """Raise InvalidSpec with the path of what cannot be done here."""
        self.commands.check(strategy.all_checks())
        for number, hook in enumerate(strategy.hooks):
            try:
                self._check_hook(hook)
            except InvalidSpec as error:
                raise InvalidSpec(f"hooks[{number}].{error}") from error

    def _check_hook(self, hook: Hook) -> None:
        if hook.command is not None:
            try:
                self.commands.find(hook.command[0])
            except InvalidSpec as error:
                raise InvalidSpec(f"command: {error}") from error
        if hook.secret is not None and not self.secret(hook.secret):
            what = f"the server's environment has no {hook.secret}"
            raise InvalidSpec(f"secret: {what}; start the server with the key in it, or leave `secret` out")
