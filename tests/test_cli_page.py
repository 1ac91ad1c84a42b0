"""docs/cli.md has every verb as its `--help` has it. ROLLOUT_GOLDEN=write writes it again."""

import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from rollout.cli import app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = """# Every verb

What `rollout VERB --help` says, on one page. [reference.md](reference.md) has the verbs by what they are for.
"""


def verbs(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from verbs(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def page() -> str:
    known = dict(verbs(typer.main.get_command(app), "rollout"))
    sections = (section(name, known[name]) for name in sorted(known))
    return "\n".join((HEAD, *sections))


def section(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
    usage = " ".join((name, *map(written, arguments), *(["[OPTIONS]"] if options else [])))
    about = inspect.cleandoc(command.help or "")
    rows = [f"| `{usage_of(each)}` | {meaning(each)} |" for each in options]
    rows += [f"| `{written(each)}` | {each.help} |" for each in arguments if getattr(each, "help", None)]
    table = ["| option | meaning |", "|---|---|", *sorted(rows), ""] if rows else []
    return "\n".join((f"## {name}", "", f"`{usage}`", "", about, "", *table))


def written(argument: Any) -> str:
    name = (argument.metavar or argument.name.upper()) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def usage_of(option: Any) -> str:
    names = ", ".join((*option.opts, *option.secondary_opts))
    return names if option.is_flag else f"{names} {option.metavar or 'WORD'}"


def meaning(option: Any) -> str:
    words = (option.help or "").replace("|", "\\|")
    shown = option.show_default and not option.is_flag and option.default not in (None, (), [], "")
    return f"{words} By default `{option.default}`." if shown and not callable(option.default) else words


def test_page_of_the_command_line_is_what_help_says() -> None:
    if os.environ.get("ROLLOUT_GOLDEN") == "write":
        PAGE.write_text(page())
    assert PAGE.read_text() == page()


def test_every_verb_and_option_has_words() -> None:
    for name, command in verbs(typer.main.get_command(app), "rollout"):
        assert command.help, name
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, f"{name} {parameter.name}"
