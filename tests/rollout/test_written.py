"""YAML that no parser takes: whoever reads a file of a user's says so, and nothing else comes of it."""

import pytest

from rollout.declared.documents import parse as parse_documents
from rollout.declared.documents import read as read_documents
from rollout.discovery.source import parse_discover_text
from rollout.errors import InvalidSpec
from rollout.linting import lint
from rollout.notify.plan import parse
from rollout.spec import parse_strategy
from rollout.written import Unreadable, read, read_all
from xds.errors import InvalidConfig

UNREADABLE = [
    "a: 2024-13-45",
    "[" * 3_000,
    "a: !!int x",
    "a: !!float x",
    "a: !!timestamp x",
    "a: &a [*a]",
    "a: &a {b: [*a]}",
    "a: [",
    "{[1]: 2}",
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_cannot_be_read_is_a_fault_of_the_file(text: str) -> None:
    assert "no YAML" in lint(text).faults[0].what
    for parser in (parse_strategy, lambda text: parse_discover_text(text, "file")):
        with pytest.raises(InvalidSpec, match="no YAML"):
            parser(text)
    with pytest.raises(InvalidConfig, match="no YAML"):
        parse("notify.yaml", text)
    _, problems = read_documents("file", text)
    assert problems


def test_a_part_that_is_named_again_is_no_fault() -> None:
    assert read("a: &a [1]\nb: *a\nc: {<<: {d: 1}}")[1] == {"a": [1], "b": [1], "c": {"d": 1}}


def test_what_takes_another_in_may_say_otherwise() -> None:
    text = "kind: service\nname: a\n<<: {version: v1}\nversion: v2"
    declared, problems = parse_documents(read_documents("file", text)[0])
    assert (problems, declared.services["a"].version) == ((), "v2")


@pytest.mark.parametrize(
    "text",
    [
        "targets: {1: {url: 'json://h'}}\nrules: [{tell: [b]}]",
        "targets: {a: 1}\nrules: [{tell: [[x]]}, {tell: [{a: b}]}]",
        "targets: 5\nrules: [{tell: [a]}]",
        "targets: a\nrules: [{tell: [1]}]",
        "targets: [1]\nrules: [{tell: [b]}]",
    ],
)
def test_notifications_of_a_wrong_shape_are_refused(text: str) -> None:
    """At SIGHUP the last good ones stay: what was no InvalidConfig ended the server."""
    with pytest.raises(InvalidConfig):
        parse("notify.yaml", text)


def test_aliases_that_stand_for_billions_are_refused_at_once() -> None:
    layers = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
    bomb = f"a0: &a0 [{', '.join('x' * 9)}]\n{layers}\n"
    with pytest.raises(Unreadable, match="its aliases written out"):
        read(bomb)
    with pytest.raises(Unreadable, match="its aliases written out"):
        list(read_all(f"kind: service\n---\n{bomb}"))
    assert read("a: &a [1, 2]\nb: [*a, *a]\n")[1] == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
