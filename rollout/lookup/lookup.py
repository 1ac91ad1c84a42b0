"""One way to ask each source, with its secrets from the server's environment, or from files that it names."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import aiohttp

from rollout.discovery.answer import Answer
from rollout.discovery.source import Consul, Discover, Dns, HttpSd
from rollout.errors import InvalidSpec, Unavailable
from rollout.lookup import consul, dns, http_sd

FILE = "_FILE"
"""Behind a variable's name: the variable with the file that holds its value, read for each question."""
SECRET_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Lookup:
    """`secret` gives the value of an environment variable, None where there is none."""

    session: aiohttp.ClientSession
    secret: Callable[[str], str | None]

    def check(self, discover: Discover) -> None:
        """Raise InvalidSpec when a secret that is asked with is not there, or no header can carry it."""
        for setting, name in discover.variables.items():
            value = self.secret(name)
            if not value and not self.secret(name + FILE):
                what = f"the server's environment has no {name}"
                raise InvalidSpec(f"{discover.kind}.{setting}: {what}; start the server with it, or leave it out")
            if value and not _can_be_sent(value):
                what = f"what {name} holds cannot be sent in a header"
                raise InvalidSpec(f"{discover.kind}.{setting}: {what}; use letters, digits and signs of ASCII")

    async def ask(self, discover: Discover, before: Answer | None) -> Answer:
        """Return where the backends are now; `before` is the last answer, None for one that waits for nothing.

        Consul answers when something is other than in it. Raises Unavailable or InvalidSpec.
        """
        try:
            self.check(discover)
        except InvalidSpec as error:
            raise Unavailable(str(error)) from error
        # A file may lie on a disk that hangs, and the fleet would wait for it.
        values = await asyncio.to_thread(self._values, discover) if discover.variables else {}
        match discover.source:
            case Dns() as source:
                return await dns.ask(source, discover)
            case Consul() as source:
                return await consul.ask(self.session, values.get(source.token_env or ""), source, discover, before)
            case HttpSd() as source:
                secrets = {header: values[name] for header, name in source.headers_env.items()}
                return await http_sd.ask(self.session, secrets, source, discover, before)
            case _:
                assert_never(discover.source)

    def _values(self, discover: Discover) -> Mapping[str, str]:
        """Return by name what is asked with; what has a file may be another one each time. Raises Unavailable."""
        return {
            name: self.secret(name) or _content(name, self.secret(name + FILE)) for name in discover.variables.values()
        }


def _content(name: str, path: str | None) -> str:
    try:
        with Path(path or "").open("rb") as file:
            value = file.read(SECRET_BYTES + 1).decode().strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "is no text"
        raise Unavailable(f"the file of {name}{FILE} cannot be read: {why}") from error
    if not value or len(value) > SECRET_BYTES or not _can_be_sent(value):
        raise Unavailable(
            f"the file of {name}{FILE} holds nothing that can be sent in a header; write one line of ASCII"
        )
    return value


def _can_be_sent(value: str) -> bool:
    return value.isascii() and value.isprintable()
