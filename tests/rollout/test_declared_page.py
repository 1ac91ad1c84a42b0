"""docs/declarative.md shows what works: documents without faults, commands, options and routes that there are."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from rollout.declared.documents import parse, read
from rollout.declared.steps import Action
from tests.test_pages import CLI, commands, verb_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "declarative.md"
TEXT = PAGE.read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def strings(value: Any) -> list[str]:
    """Return every text of a YAML value."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    if isinstance(value, list):
        return [" ".join(map(str, value)), *(text for each in value for text in strings(each))]
    return [str(value)]


def test_documents_of_the_page_have_no_fault() -> None:
    documents = [block for block in blocks("yaml") if re.search(r"^kind: ", block, re.MULTILINE)]
    assert documents
    for block in documents:
        written, problems = read("page", block)
        assert (problems, parse(written)[1]) == ((), ())


def test_commands_of_all_blocks_exist_with_their_options() -> None:
    lines = [*commands(PAGE), *(line for block in blocks("text") for line in block.splitlines() if "$ rollout" in line)]
    for block in blocks("yaml"):
        texts = [text for document in yaml.safe_load_all(block) for text in strings(document)]
        lines += [found for text in texts for found in re.findall(r"^\s*(rollout [a-z][^|;]*)", text, re.MULTILINE)]
    for block in blocks("hcl"):
        lines += re.findall(r'(?:"|run )(rollout [a-z][^"]*)"', block)
    assert len(lines) > 12
    for line in lines:
        command, words = verb_of(shlex.split(line, comments=True)[1:])
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if re.match("-{1,2}[a-z]", word)} <= known, line


def test_routes_of_the_page_exist_and_so_do_the_fields_of_a_plan() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "rollout" / "api").glob("*.py"))
    paths = set(re.findall(r"(/v1/[a-z]+)", TEXT))
    assert paths == {"/v1/plan", "/v1/apply", "/v1/documents", "/v1/strategies", "/v1/services"}
    assert all(f'"{path}' in sources for path in paths)
    (answer,) = map(json.loads, blocks("json"))
    assert answer.keys() == {"steps", "changes", "warnings", "fingerprint"}
    shown = {"resource", "action", "before", "after", "words", "lines", "rollout"}
    assert answer["steps"][0].keys() == shown


def test_each_action_is_on_the_page_or_shown_by_its_sign() -> None:
    told = {action for action in Action if f"`{action}`" in TEXT}
    assert told | {Action.CREATE, Action.CHANGE, Action.REMOVE} == set(Action)
    assert CLI.commands["plan"]
