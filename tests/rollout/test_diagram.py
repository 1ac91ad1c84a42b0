"""docs/machine.md shows the machine as it is."""

import re
from pathlib import Path

import pytest

from rollout.state import ENDED, TRANSITIONS, Phase, diagram


@pytest.fixture
def page() -> str:
    return (Path(__file__).parents[2] / "docs" / "machine.md").read_text(encoding="utf-8")


def test_the_page_draws_the_table_of_transitions(page: str) -> None:
    drawings = re.findall(r"```mermaid\n(.*?)\n```", page, flags=re.DOTALL)
    assert drawings == [diagram()], "paste diagram() of rollout/machine.py into the page"


def test_the_drawing_has_every_transition_and_no_other() -> None:
    arrows = set(re.findall(r"(\S+) --> (\S+)", diagram()))
    moves = {(phase.value, each.value) for phase in TRANSITIONS for each in TRANSITIONS[phase]}
    assert arrows == moves | {("[*]", "pending")} | {(phase.value, "[*]") for phase in ENDED}


def test_the_page_tells_of_each_phase_once(page: str) -> None:
    assert re.findall(r"^\| (\w+) \|", page, flags=re.MULTILINE) == ["phase", *Phase]
