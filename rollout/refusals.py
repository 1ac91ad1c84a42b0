"""What Envoys refused: their NACKs, in words that are short enough for a journal."""

from collections.abc import Mapping

from xds.cache import NodeStatus

REASON_LIMIT = 300


def fresh_rejections(connected: Mapping[str, NodeStatus], since_s: float) -> dict[str, str]:
    """Return NACKs that came since a phase began, of whatever type: something is wrong in the fleet, so stop."""
    return {
        node: shortened(f"refused {type_}: {each.rejection.text}")
        for node, status in connected.items()
        for type_, each in status.types.items()
        if each.rejection is not None and each.rejection.at_s >= since_s
    }


def shortened(text: str) -> str:
    """Keep the beginning, which says what was refused, and the end, where Envoy puts the reason."""
    return text if len(text) <= REASON_LIMIT else f"{text[:80]} ... {text[-(REASON_LIMIT - 85) :]}"
