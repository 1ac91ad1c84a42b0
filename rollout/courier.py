"""Delivers one message to one hook: a signed POST of JSON, or a command that has it on stdin; and what it answers."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import aiohttp
from yarl import URL

from rollout.errors import Unavailable
from rollout.fetching import what_happened
from rollout.hooks import HookKind
from rollout.message import KEY_HEADER, SIGNATURE_HEADER, Message, signature
from rollout.metrics.sources import Command, Commands, plain_line

SAID_CHARACTERS = 200
SAID_BYTES = 8 * SAID_CHARACTERS
PROVIDED_BYTES = 1024 * 1024
TRACE_HEADER, TRACE_VARIABLE = "traceparent", "TRACEPARENT"  # by W3C Trace Context, and for programs by OpenTelemetry
_MAY_CHANGE = frozenset({408, 409, 425, 429})  # 409 is what many say while they still work on the same key


@dataclass(frozen=True, slots=True)
class Agreed:
    """A hook agrees. `text` is all that it said when it provides, else ""."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A hook does not agree, and why. `final`: it has understood, and would say the same again."""

    words: str
    final: bool = False


Reply = Agreed | Refused


@dataclass(frozen=True, slots=True)
class Courier:
    """`secret` gives the value of an environment variable, None where there is none; `wall` dates signatures.

    `traceparent` says where in a trace a message is, "" where there is none.
    """

    session: aiohttp.ClientSession
    commands: Commands
    secret: Callable[[str], str | None]
    wall: Callable[[], datetime]
    traceparent: Callable[[Message], str] = lambda _: ""

    async def deliver(self, message: Message, attempt: int) -> Reply:
        """Call a hook once, within its timeout. Raises Unavailable when nobody answers."""
        if message.hook.command is not None:
            return await self._run(message, message.hook.command, attempt)
        return await self._post(message, attempt)

    async def _run(self, message: Message, words: tuple[str, ...], attempt: int) -> Reply:
        timeout_s = message.hook.timeout.total_seconds()
        environment = message.environment(attempt)
        if traceparent := self.traceparent(message):
            environment = {**environment, TRACE_VARIABLE: traceparent}
        ended = await Command(self.commands, words, environment, timeout_s, message.body(attempt)).run()
        if ended.code == 0:
            provides = message.hook.at is HookKind.PROVISION
            return Agreed(ended.output.decode(errors="replace") if provides else "")
        said = f": {ended.said}" if ended.said else ""
        return Refused(f"{words[0]} ended with {ended.code}{said}")

    async def _post(self, message: Message, attempt: int) -> Reply:
        hook, body = message.hook, message.body(attempt)
        headers = self._headers(message, body)
        timeout_s = hook.timeout.total_seconds()
        try:
            async with (
                asyncio.timeout(timeout_s),
                self.session.post(URL(hook.url or ""), data=body, headers=headers, allow_redirects=False) as response,
            ):
                return await _reply(message, response)
        except TimeoutError as error:
            raise Unavailable(f"no answer from {hook.host} within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"no answer from {hook.host}: {what_happened(error)}") from error

    def _headers(self, message: Message, body: bytes) -> Mapping[str, str]:
        ours = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",  # one that is kept may just be closing, and a POST is not sent twice then
            KEY_HEADER: message.key,
        }
        if message.hook.secret is not None:
            secret = self.secret(message.hook.secret)
            if not secret:
                raise Unavailable(f"the environment variable {message.hook.secret} of the server is not set")
            ours[SIGNATURE_HEADER] = signature(secret.encode(), int(self.wall().timestamp()), body)
        if traceparent := self.traceparent(message):
            ours[TRACE_HEADER] = traceparent
        taken = {name.lower() for name in (*ours, SIGNATURE_HEADER)}
        return {name: value for name, value in message.hook.headers.items() if name.lower() not in taken} | ours


async def _reply(message: Message, response: aiohttp.ClientResponse) -> Reply:
    status, host = response.status, message.hook.host
    if 200 <= status < 300:
        if message.hook.at is not HookKind.PROVISION:
            return Agreed()
        text = await _read(response, PROVIDED_BYTES + 1)
        if len(text) > PROVIDED_BYTES:
            return Refused(f"the answer of {host} is longer than {PROVIDED_BYTES} bytes", final=True)
        return Agreed(text.decode(errors="replace"))
    if 300 <= status < 400:
        return Refused(f"{status} from {host}, and redirects are not followed; name where it leads", final=True)
    said = plain_line((await _read(response, SAID_BYTES)).decode(errors="replace"))[:SAID_CHARACTERS]
    final = 400 <= status < 500 and status not in _MAY_CHANGE
    return Refused(f"{status} from {host}" + (f": {said}" if said else ""), final=final)


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the beginning of an answer: what is longer is not listened to."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) >= limit:
            break
    return bytes(body[:limit])
