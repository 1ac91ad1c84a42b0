"""Changes that may be asked for twice: the first answer to a key is kept, and given again."""

import hashlib
from collections.abc import Callable
from datetime import datetime

from aiohttp import web
from aiohttp.typedefs import Middleware

from rollout.answered import Answered, Answers, DropAnswers, PutAnswer, Question
from rollout.api.contract import Handler, Route, route_of
from rollout.api.requests import NOTED, body_bytes, caller, signature
from rollout.errors import Conflict, InvalidSpec
from rollout.saver import Saver, Saving

HEADER, REPLAYED = "Idempotency-Key", "Idempotency-Replayed"
KEY_CHARACTERS = 255
UNSAVED_LIMIT = 500  # that wait for the disk; beyond, what is told is only in memory, as are the changes themselves
BODY_CHARACTERS = 256 * 1024  # of an answer that is kept


class Reused(InvalidSpec):
    """A key was used for something else before."""


class Repeats:
    """A middleware that does a change with a key once. Its keys are saved before what is done for them.

    They are put into the saver, and nobody waits for them: it saves in order, so a change is never there without its
    key. `ours` has the keys that are being done by this server.
    """

    def __init__(self, answers: Answers, saver: Saver, wall: Callable[[], datetime]) -> None:
        self._answers = answers
        self._saver = saver
        self._wall = wall
        self._ours: set[Question] = set()

    def middleware(self) -> Middleware:
        @web.middleware
        async def repeats(request: web.Request, handler: Handler) -> web.StreamResponse:
            route, key = route_of(request), request.headers.get(HEADER)
            if key is None or route is None or not route.changes or caller(request).rehearses:
                return await handler(request)
            question = await _question(request, key)
            known = self._answers.get(question)
            if known is None:
                return await self._done(request, handler, route, question)
            return self._again(known, question)

        return repeats

    def _again(self, known: Answered, question: Question) -> web.Response:
        key = question.key
        if known.question != question:
            what = f"was used for {known.question.method} {known.question.path} before, or with another body"
            raise Reused(f"{HEADER}: '{key}' {what}; give each change a key of its own")
        if question in self._ours:
            raise Conflict(f"the change with the key '{key}' is being made just now; ask again in a moment")
        if known.status is None:
            what = f"a change with the key '{key}' was begun at {known.at.isoformat(timespec='seconds')}"
            what = f"{what}, and it is not known whether it was done"
            raise Conflict(f"{what}; look at the service and at `rollout log`, then ask with a new key if it was not")
        if not known.body:
            what = f"the change with the key '{key}' was made, and its answer is kept nowhere"
            raise Conflict(f"{what}; look at what is there, and ask with a new key for another one")
        kind = "application/json" if known.status < 400 else "application/problem+json"
        headers = {REPLAYED: "true"}
        answer = web.Response(text=known.body, status=known.status, content_type=kind, headers=headers)
        answer[NOTED] = True  # when it was given first
        return answer

    async def _done(
        self, request: web.Request, handler: Handler, route: Route, question: Question
    ) -> web.StreamResponse:
        self._keep(Answered(question, self._wall()))
        self._ours.add(question)
        try:
            response = await handler(request)
        finally:
            self._ours.discard(question)
        # After a fault of ours or of the disk nobody knows what came of it, and that is what is told.
        if response.status < 500 and isinstance(response, web.Response):
            text = "" if route.confidential and response.status < 400 else response.text or ""
            kept = text if len(text) <= BODY_CHARACTERS else ""
            self._keep(Answered(question, self._wall(), response.status, kept))
        return response

    def _keep(self, answer: Answered) -> None:
        self._answers.put(answer)
        gone = self._answers.outdated(self._wall())
        drops = (DropAnswers(gone),) if gone else ()
        if self._saver.unsaved("") < UNSAVED_LIMIT:
            self._saver.put(Saving((PutAnswer(answer), *drops)))


async def _question(request: web.Request, key: str) -> Question:
    """Return what is asked for. Raises InvalidSpec for a key that is none."""
    if not 1 <= len(key) <= KEY_CHARACTERS or not key.isascii() or not key.isprintable():
        raise InvalidSpec(f"{HEADER}: must have 1 to {KEY_CHARACTERS} printable characters of ASCII")
    digest = hashlib.sha256(await body_bytes(request)).hexdigest()
    return Question(signature(request), key, request.method, request.path_qs, digest)
