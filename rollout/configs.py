"""The folder envoy-configs, read: which of its files are for all proxies, and which for a group."""

from collections.abc import Mapping
from pathlib import Path

from rollout.errors import InvalidSpec
from rollout.traffic.groups import Files

CONFIG_SUFFIXES = (".yaml", ".yml", ".json")
CONFIG_SIZE_LIMIT = 256 * 1024 * 1024


def read_configs(folder: Path) -> Files:
    """Return the text of a folder's files by path, those of each group of proxies apart. Raises InvalidSpec.

    A folder in it holds the files of the proxies whose node.cluster is its name; hidden ones count for nothing.
    """
    if folder.is_file():
        raise InvalidSpec(f"{folder} is a file; name the folder that it is in")
    if not folder.is_dir():
        raise InvalidSpec(f"the folder {folder} does not exist; name the folder with Envoy's YAML")
    try:
        common = _config_paths(folder)
        groups = {below.name: _config_paths(below) for below in _folders(folder)}
        nested = [path for group in _folders(folder) for below in _folders(group) for path in below.rglob("*")]
        too_deep = next((path for path in nested if path.suffix in CONFIG_SUFFIXES), None)
        if too_deep is not None:
            raise InvalidSpec(f"{too_deep} lies too deep to be served; move it up, into the folder of its group")
        if sum(path.stat().st_size for paths in (common, *groups.values()) for path in paths) > CONFIG_SIZE_LIMIT:
            raise InvalidSpec(f"the files in {folder} are larger than {CONFIG_SIZE_LIMIT >> 20} MiB together")
        files = Files(_texts(common), {group: _texts(paths) for group, paths in groups.items() if paths})
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"cannot read the files of {folder}: {error}") from error
    if not files.common:
        what = f"the folder {folder} has no .yaml, .yml or .json file; there is nothing to serve"
        raise InvalidSpec(f"{what} to proxies whose cluster has no folder of its own" if files.groups else what)
    return files


def _config_paths(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.iterdir() if path.suffix in CONFIG_SUFFIXES and path.is_file()))


def _folders(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))


def _texts(paths: tuple[Path, ...]) -> Mapping[str, str]:
    return {str(path): path.read_text(encoding="utf-8") for path in paths}
