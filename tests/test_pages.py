"""Pages for users say what there is: commands that work as they are written, and every field of what is answered."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from rollout.api.offline import offline_document
from rollout.cli import app
from rollout.gate import Gate, Past
from rollout.gate.evidence import Evidence
from rollout.gate.plan import Step
from rollout.gate.words import numbers

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "operations.md", *sorted((ROOT / "docs" / "strategies").glob("*.md")))
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
CLI: Any = typer.main.get_command(app)


def commands(page: Path) -> Iterator[str]:
    """Yield every command line of a page: in blocks whole, in the text and in tables as it is named there."""
    text = page.read_text()
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        yield from (line for line in block.splitlines() if line.startswith("rollout "))
    yield from re.findall(r"`(rollout [a-z][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def verb_of(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that a line names, and the words behind its name."""
    command = CLI
    while words and hasattr(command, "commands"):
        command = command.commands[words[0]]
        words = words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_on_a_page_exist_with_their_options(page: Path) -> None:
    for line in commands(page):
        command, words = verb_of(shlex.split(line, comments=True)[1:])
        known = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            assert not word.startswith("--") or word in known, line


def test_every_field_that_the_api_takes_or_gives_has_a_meaning() -> None:
    schemas = offline_document()["components"]["schemas"]
    told = {"Discover", "Dns", "Consul", "HttpSd"}  # what `discover` takes has a page of its own
    meanings = {
        f"{name}.{field}": shape.get("description")
        for name, each in schemas.items()
        for field, shape in each.get("properties", {}).items()
        if name not in told
    }
    assert len(meanings) > 200
    assert [name for name, meaning in meanings.items() if not meaning] == []


def test_every_field_of_a_rollout_is_in_the_reference() -> None:
    schemas = offline_document()["components"]["schemas"]
    told = ("Rollout", "Stage", "Drain", "Measured", "Counts", "EnvoySplit", "Step", "Reading", "HookReport", "History")
    for name in told:
        for field in schemas[name]["properties"]:
            assert f"`{field}`" in REFERENCE, f"{name}.{field}"


def test_every_number_of_a_verdict_is_in_the_reference() -> None:
    known = numbers(Gate(), Evidence.start(), Step(0, 100, 1000, 0.01))
    assert len(known) > 15
    for name in (*known, "shown_margin", "held_s"):
        assert f"`{name}`" in REFERENCE, name
    assert Past().slow.keys() == {"p75", "p95", "p99", "p999"}  # as the reference has them
