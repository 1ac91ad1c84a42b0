"""What people see of notifications: who is told, and what became of a test. Pure."""

from rich.console import RenderableType
from rich.text import Text

from rollout.screen.words import NOTHING, Json, instant, plain, table


def targets_table(answer: Json) -> RenderableType:
    """For `notify list`: every target with its last message and its fault."""
    if not answer["targets"]:
        return Text("no targets; name one under `targets:` in the file of `rollout serve --notify`")
    rows = table("target", "address", "last", "delivered", "given up", "waiting", "fault")
    for each in answer["targets"]:
        numbers = (each["delivered"], each["given_up"], each["waiting"])
        row = (each["target"], each["address"], _last(each), *numbers, each["fault"] or NOTHING)
        rows.add_row(*map(plain, row))
    return rows


def _last(target: Json) -> str:
    at = target["delivered_at"]
    return f"{instant(at):%Y-%m-%d %H:%M:%S}" if at else NOTHING


def tested(answer: Json) -> Text:
    """For `notify test`: a line for each target."""
    return Text("\n").join(map(_tested, answer["targets"]))


def _tested(target: Json) -> Text:
    if target["delivered"]:
        return plain(f"{target['target']} has taken it")
    return plain(f"{target['target']} has not taken it: {target['fault']}", "bold red")
