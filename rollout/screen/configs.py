"""What is said of the configuration that is served: its files, the last refused change, its resources."""

import json
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from rollout.screen.words import Json, instant, plain, table


def config_lines(config: Json) -> RenderableType:
    """For `config show`: what is served, from which files, and what is not."""
    return Group(*_lines(config))


def _lines(config: Json) -> Iterator[RenderableType]:
    since = f", read at {instant(config['loaded_at']):%Y-%m-%d %H:%M:%S} (UTC)" if config["loaded_at"] else ""
    yield plain(f"snapshot {config['snapshot']}{since}")
    rows = table("file", "for", "resources")
    for file in config["files"]:
        counts = ", ".join(f"{count} {kind}" for kind, count in file["resources"].items()) or "none that are served"
        rows.add_row(plain(file["path"], "bold"), plain(file["group"] or "all Envoys"), plain(counts))
    yield rows
    for warning in config["warnings"]:
        yield plain(f"warning: {warning}", "yellow")
    refused = config["last_refused"]
    if refused is not None:
        yield plain(
            f"refused at {instant(refused['at']):%Y-%m-%d %H:%M:%S} (UTC), asked by {refused['by']}:", "bold red"
        )
        for each in refused["problems"]:
            yield plain(f"  {each['where']}: {each['what']}" if each["where"] else f"  {each['what']}")


def resources_table(answer: Json) -> RenderableType:
    """For `config show --type`: what is served; what a resource holds is below it, where that was asked for."""
    rows = table("type", "name", "version", "for")
    for each in answer["resources"]:
        groups = ", ".join(group or "all others" for group in each["groups"])
        rows.add_row(plain(each["type"]), plain(each["name"], "bold"), plain(each["version"], "dim"), plain(groups))
    held = [Text(json.dumps(each["resource"], indent=2)) for each in answer["resources"] if each["resource"]]
    return Group(rows, *held)
