"""Answers that are kept: what was said to a change with a key, so that who asks again with it is told the same."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

KEPT = timedelta(hours=24)
KEPT_ANSWERS = 2_000
KEPT_CHARACTERS = 16 * 1024 * 1024  # of all together
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody asks for with a key of theirs; `digest` is of the body, `path` has the query."""

    who: str
    key: str
    method: str
    path: str
    digest: str

    @property
    def name(self) -> Key:
        return self.who, self.key


@dataclass(frozen=True, slots=True)
class Answered:
    """A question that was asked at `at`. `status` None: it was begun, and what came of it is not known; `body` ""."""

    question: Question
    at: datetime
    status: int | None = None
    body: str = ""


@dataclass(frozen=True, slots=True)
class PutAnswer:
    answer: Answered


@dataclass(frozen=True, slots=True)
class DropAnswers:
    """Forget the answers of these keys, each with who has asked."""

    names: tuple[Key, ...]


AnswerChange = PutAnswer | DropAnswers


class Answers:
    """The answers that are kept, the oldest first; beyond the limits the oldest go."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, Answered] = OrderedDict()
        self._characters = 0

    def restore(self, answers: Iterable[Answered]) -> None:
        for each in sorted(answers, key=lambda each: each.at):
            self.put(each)

    def get(self, question: Question) -> Answered | None:
        """Return what this one was told who asked with this key, whatever it was for."""
        return self._kept.get(question.name)

    def put(self, answer: Answered) -> None:
        known = self._kept.get(answer.question.name)
        self._characters += len(answer.body) - (len(known.body) if known else 0)
        self._kept[answer.question.name] = answer

    def outdated(self, now: datetime) -> tuple[Key, ...]:
        """Take out what is too old or too much, and return whose it was."""
        gone = []
        for name, each in tuple(self._kept.items()):
            fits = len(self._kept) <= KEPT_ANSWERS and self._characters <= KEPT_CHARACTERS
            if fits and now - each.at < KEPT:
                break
            self._characters -= len(self._kept.pop(name).body)
            gone.append(name)
        return tuple(gone)
