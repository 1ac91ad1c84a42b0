"""Documents as YAML."""

from collections.abc import Collection, Mapping
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Writes equal parts out each time, instead of anchors, and lists inside of mappings set in."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - yaml calls it so
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        super().increase_indent(flow=flow, indentless=False)


def text_of(documents: Collection[Mapping[str, Any]]) -> str:
    """Write documents as YAML."""
    written = (yaml.dump(dict(each), Dumper=_Dumper, sort_keys=False, allow_unicode=True) for each in documents)
    return "---\n".join(written)
