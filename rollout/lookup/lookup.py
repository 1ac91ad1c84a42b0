"""One way to ask each source, with its secrets from the server's environment."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import aiohttp

from rollout.discovery.answer import Answer
from rollout.discovery.source import Consul, Discover, Dns, HttpSd
from rollout.errors import InvalidSpec, Unavailable
from rollout.lookup import consul, dns, http_sd


@dataclass(frozen=True, slots=True)
class Lookup:
    """`secret` gives the value of an environment variable, None where there is none."""

    session: aiohttp.ClientSession
    secret: Callable[[str], str | None]

    def check(self, discover: Discover) -> None:
        """Raise InvalidSpec when a secret that is asked with is not there, or no header can carry it."""
        for setting, name in discover.variables.items():
            value = self.secret(name)
            if not value:
                what = f"the server's environment has no {name}"
                raise InvalidSpec(f"{discover.kind}.{setting}: {what}; start the server with it, or leave it out")
            if not (value.isascii() and value.isprintable()):
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
        match discover.source:
            case Dns() as source:
                return await dns.ask(source, discover)
            case Consul() as source:
                token = None if source.token_env is None else self.secret(source.token_env)
                return await consul.ask(self.session, token, source, discover, before)
            case HttpSd() as source:
                secrets = {header: self.secret(name) or "" for header, name in source.headers_env.items()}
                return await http_sd.ask(self.session, secrets, source, discover, before)
            case _:
                assert_never(discover.source)
