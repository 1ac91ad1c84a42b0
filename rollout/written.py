"""What people write as YAML, read so that whatever is wrong with it is one kind of error."""

import contextlib
from collections.abc import Iterator
from typing import Any

import yaml

PARTS_LIMIT = 200_000  # what the API takes at once, 1 MiB, has fewer


class Unreadable(yaml.YAMLError):
    """A text that is YAML by its form, and has no value; `problem` says why, without what may be a secret."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


def read(text: str) -> tuple[yaml.Node | None, Any]:
    """Return the nodes, which have the lines, and the value. Raises yaml.YAMLError, and nothing else."""
    with _one_kind_of_error():
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_finite(root, set(), {})
        return root, yaml.safe_load(text)


def read_all(text: str) -> Iterator[tuple[yaml.Node, Any]]:
    """Yield the nodes and the value of each document of a text. Raises yaml.YAMLError, and nothing else."""
    with _one_kind_of_error():
        roots = yaml.compose_all(text, Loader=yaml.SafeLoader)
        # Nodes of their own: to make a value of `<<: ...` writes into its nodes, and keys would stand twice.
        for root, again in zip(roots, yaml.compose_all(text, Loader=yaml.SafeLoader), strict=True):
            _check_finite(root, set(), {})
            if root is not None:
                yield root, _value(again)


def _value(root: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(root)
    finally:
        loader.dispose()


@contextlib.contextmanager
def _one_kind_of_error() -> Iterator[None]:
    try:
        yield
    except RecursionError as error:
        raise Unreadable("it is nested too deeply") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Unreadable("a value does not fit its tag (such as !!int), or is a date that is none") from error


def _check_finite(node: Any, above: set[int], sizes: dict[int, int]) -> int:
    """Return how many parts a node has, its aliases written out. Raises Unreadable where they are too many, or endless.

    Nothing that walks through such a value ends, or not today: nine aliases of nine aliases are soon a billion parts.
    """
    if id(node) in above:
        raise Unreadable("an alias names what it stands in; write that part out")
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in sizes:
        above.add(id(node))
        parts = (part for each in node.value for part in (each if isinstance(each, tuple) else (each,)))
        sizes[id(node)] = 1 + sum(_check_finite(part, above, sizes) for part in parts)
        above.remove(id(node))
    if sizes[id(node)] > PARTS_LIMIT:
        raise Unreadable(f"it has more than {PARTS_LIMIT:,} parts, its aliases written out; write fewer")
    return sizes[id(node)]
