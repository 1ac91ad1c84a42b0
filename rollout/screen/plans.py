"""Plans, and strategies that have names, as people see them."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from rollout.screen.words import instant, plain, plural

Json = Mapping[str, Any]
_SIGNS = {
    "none": (" ", ""),
    "create": ("+", "green"),
    "change": ("~", "yellow"),
    "remove": ("-", "red"),
    "adopt": ("~", "yellow"),
    "backends": ("~", "yellow"),
    "rollout": ("~", "yellow"),
    "supersede": ("~", "yellow"),
    "held": ("!", "bold red"),
    "waits": ("!", "bold yellow"),
}


def plan_text(plan: Json) -> Text:
    """A line for each step, and below it the lines of a strategy that go and come."""
    lines: list[Text] = []
    for step in plan["steps"]:
        sign, style = _SIGNS.get(step["action"], ("~", "yellow"))
        lines.append(plain(f"{sign} {step['resource']}: {step['words']}", style))
        lines += map(_changed, step["lines"])
    lines += (plain(f"warning: {warning}", "yellow") for warning in plan["warnings"])
    return Text("\n").join([*lines, plain(_sum(plan))])


def _changed(line: str) -> Text:
    """Return a line of YAML that goes or comes, set in as far as it is: by that it says what it belongs to."""
    sign, style = ("+", "green") if line.startswith("+") else ("-", "red")
    words = line[2:].lstrip(" ")
    return Text(f"    {sign} {' ' * (len(line) - 2 - len(words))}", style).append_text(plain(words, style))


def _sum(plan: Json) -> str:
    count, held = plan["changes"], [each["action"] for each in plan["steps"]]
    words = f"{plural(count, 'change')}" if count else "nothing to do"
    words = f"{words}; {held.count('held')} held" if "held" in held else words
    words = f"{words}; {held.count('waits')} cannot begin now" if "waits" in held else words
    return f"{words} (fingerprint {plan['fingerprint']})"


def strategies_table(strategies: list[Json]) -> Table:
    table = Table("STRATEGY", "STAGES", "REVISION", "BY", "AT", box=None, pad_edge=False)
    for each in strategies:
        stages = ", ".join(f"{weight:g}" for weight in each["stages"])
        row = (each["name"], f"{stages} %", str(each["revision"]), each["by"], instant(each["at"]))
        table.add_row(*map(plain, row))
    return table
