"""The file of notifications as it is on the disk, with the addresses that it leads to."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rollout.errors import InvalidSpec
from rollout.notify.plan import Plan, address, parse
from xds.errors import InvalidConfig, Problem

FILE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Loaded:
    """A plan with the address of each target, which is secret."""

    plan: Plan
    addresses: Mapping[str, str] = field(repr=False)


def load(path: Path, check: Callable[[str], None]) -> Loaded:
    """Read the file and all that it names; `check` raises InvalidSpec for an address that is none.

    Raises InvalidConfig with every fault.
    """
    plan = parse(str(path), _text(path))
    problems: list[Problem] = []
    addresses: dict[str, str] = {}
    for name, target in plan.targets.items():
        files = {}
        try:
            if target.url_file is not None:
                files[target.url_file] = _secret(path.parent / target.url_file)
            addresses[name] = address(name, target, os.environ, files)
            check(addresses[name])
        except InvalidSpec as error:
            problems.append(Problem(f"{path}: targets.{name}", str(error).removeprefix(f"targets.{name}.")))
    if problems:
        raise InvalidConfig(tuple(problems))
    return Loaded(plan, addresses)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise InvalidConfig((Problem(str(path), f"cannot be read: {why}"),)) from error


def _secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise InvalidSpec(f"url_file: cannot read {path}: {why}") from error
