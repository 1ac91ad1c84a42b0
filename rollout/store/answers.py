"""The table of kept answers: rows as values, and changes as SQL."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, assert_never

from sqlite_utils import Database

from rollout.answered import AnswerChange, Answered, DropAnswers, PutAnswer, Question
from rollout.store.rows import to_text


def apply_to_answers(database: Database, change: AnswerChange) -> None:
    match change:
        case PutAnswer(answer):
            asked = answer.question
            what = {"who": asked.who, "key": asked.key, "method": asked.method, "path": asked.path}
            row = {**what, "digest": asked.digest, "at": to_text(answer.at), "status": answer.status}
            database["answers"].upsert({**row, "body": answer.body}, pk=("who", "key"))
        case DropAnswers(names):
            for name in names:
                database.execute("DELETE FROM answers WHERE who = ? AND key = ?", list(name))
        case _:
            assert_never(change)


def to_answer(row: Mapping[str, Any]) -> Answered:
    question = Question(row["who"], row["key"], row["method"], row["path"], row["digest"])
    return Answered(question, datetime.fromisoformat(row["at"]), row["status"], row["body"])
