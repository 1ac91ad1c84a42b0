"""What envoy-configs was when it was read last, and what was refused since: for who wants to know what is served."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rollout.traffic.groups import Files
from xds.cache import Fleet
from xds.config import BOOTSTRAP_FILES, load
from xds.errors import InvalidConfig, Problem
from xds.resources import BY_WORD
from xds.snapshot import Snapshot

NO_FILES = Files({})


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """A file, the group of proxies that it is for ("" for all), and how many resources it has by type."""

    path: str
    group: str
    resources: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Refused:
    """A change of envoy-configs that is not served: who wanted it read, and all that is wrong with it."""

    at: datetime
    by: str
    problems: tuple[Problem, ...]


@dataclass(slots=True)
class LoadedConfig:
    """What was read last. `refused` is the last change that was refused, None before the first; `at` None: nothing."""

    at: datetime | None = None
    files: Files = NO_FILES
    warnings: tuple[str, ...] = ()
    refused: Refused | None = None

    def take(self, files: Files, at: datetime, warnings: Sequence[str]) -> None:
        self.files, self.at, self.warnings = files, at, tuple(warnings)

    def refuse(self, at: datetime, by: str, error: Exception) -> None:
        problems = error.problems if isinstance(error, InvalidConfig) else (Problem("", str(error)),)
        self.refused = Refused(at, by, problems)


def counted(files: Files) -> tuple[LoadedFile, ...]:
    """Return each file with what is in it, those for all proxies first. It reads them again: not on the loop."""
    return tuple(
        LoadedFile(path, group, _resources(path, text))
        for group in files.names()
        for path, text in sorted(files.of(group).items())
    )


def _resources(path: str, text: str) -> Mapping[str, int]:
    if path.rpartition("/")[2] in BOOTSTRAP_FILES:
        return {}
    found = load(path, text)
    return {word: len(items) for word in BY_WORD if isinstance(items := found.get(word), list)}


def differing(before: Fleet, after: Fleet) -> str:
    """Say how many resources of which type differ, "" when none does."""
    said = [", ".join(_differing(before.common, after.common))]
    for group in sorted(before.groups.keys() | after.groups.keys()):
        known, now = (each.groups.get(group, each.common) for each in (before, after))
        words = ", ".join(_differing(known, now))
        if words and words != said[0]:
            said.append(f"for proxies of {group.partition(chr(0))[0] or 'a place'}: {words}")
    return "; ".join(dict.fromkeys(filter(None, said)))


def _differing(before: Snapshot, after: Snapshot) -> Iterator[str]:
    for type_, view in after.views.items():
        known, now = before.views[type_].resources, view.resources
        counts = Counter(
            added=len(now.keys() - known.keys()),
            removed=len(known.keys() - now.keys()),
            changed=sum(known[name].version != now[name].version for name in now.keys() & known.keys()),
        )
        words = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
        if words:
            yield f"{type_}: {words}"
