"""What is said in one line: where a rollout stands, how far a drain is, what was done."""

from collections.abc import Sequence

from rich.text import Text

from rollout.drain import IDLE_LOOKS
from rollout.screen.following import awaited_words, station
from rollout.screen.words import BEFORE_STAGES, ENDED, Json, move, percent, phase_words, plain, plural, style_of

BUSY_LIMIT = 3


def rollout_line(rollout: Json) -> Text:
    """Say where a rollout stands, in one line."""
    line = plain(f"{rollout['service']} {move(rollout)}: ")
    line.append(phase_words(rollout["phase"]), style_of(rollout["phase"]))
    if rollout["phase"] not in ENDED:
        line.append(f" at {percent(rollout['weight_percent'])}")
    line.append_text(plain(f" ({rollout['reason']})"))
    if rollout["awaiting"]:
        why = f": {rollout['waiting']}" if rollout["waiting"] else ""
        line.append_text(plain(f"; {awaited_words(rollout)}{why}"))
    if rollout.get("approved"):
        line.append("; approved")
    if rollout["phase"] in BEFORE_STAGES and rollout["stages_note"]:
        stages = ", ".join(map(station, rollout["track"]))
        line.append_text(plain(f"; stages: {stages} ({rollout['stages_note']})"))
    return line


def begun(rollout: Json) -> Text:
    """Say where a rollout stands that was just asked for, or why nothing was changed for it."""
    why = rollout.get("unchanged")
    return plain(f"{rollout['service']}: nothing was changed: {why}") if why else rollout_line(rollout)


def drain_line(drain: Json) -> Text:
    """Say how far one backend is let go."""
    line = plain(f"{drain['backend']} of {drain['version']}: ")
    return line.append_text(drain_words(drain, safe=drain["removed"]))


def drain_of(view: Json, address: str) -> Text:
    """Say how far this backend of a service is let go."""
    found = next((each for each in view["drains"] if each["backend"] == address), None)
    return (
        drain_line(found)
        if found
        else plain(f"{address} is gone from '{view['service']}': ").append("safe to stop", "bold green")
    )


def drains_of(view: Json, addresses: Sequence[str]) -> Text:
    """Say how far these backends of a service are let go, each in a line."""
    return Text("\n").join(drain_of(view, address) for address in addresses)


def deployed(rollout: Json) -> Text:
    """Say where a rollout stands that was just asked for, and what waits behind it."""
    queued = rollout.get("queued")
    return Text("\n").join([rollout_line(rollout), *([queued_line(queued)] if queued else [])])


def queued_line(queued: Json) -> Text:
    """Say which deployment waits, or why it cannot begin."""
    line = plain(f"{queued['version']} by {queued['by']} ")
    if queued["fault"]:
        return line.append("could not begin: ", "bold yellow").append_text(plain(queued["fault"], "not bold default"))
    return line.append("is queued: it begins when this rollout has ended")


def unhealthy_line(found: Json) -> Text:
    """Say why a backend is not used, or that it is all the same."""
    line = plain(f"{found['backend']} of {found['version'] or 'no version'}: {found['why']}")
    return line.append("; used all the same, no other is healthy", "bold yellow") if found["used"] else line


def health_of(view: Json, address: str) -> Text:
    """Say whether this backend of a service is used."""
    found = next((each for each in view["unhealthy"] if each["backend"] == address), None)
    return unhealthy_line(found) if found else plain(f"{address}: healthy")


def notes(warnings: Sequence[str], done: str) -> Text:
    """Warnings, one in a line, and what was done."""
    return Text("\n").join([*(plain(f"warning: {each}", "yellow") for each in warnings), plain(done)])


def drain_words(drain: Json, *, safe: bool) -> Text:
    cut = ", ".join(f"{node}: {'unknown' if count < 0 else count}" for node, count in sorted(drain["cut"].items()))
    ran = f"the drain timeout is over, requests still running: {cut or 'none seen'}; " if drain["timed_out"] else ""
    if drain.get("still_used"):
        used = ", ".join(f"{address} serves {' and '.join(others)}" for address, others in drain["still_used"].items())
        return plain(f"{ran}{used}; ").append("do not stop what is used", "bold yellow")
    if safe and drain["cut"]:
        return plain(ran).append("stopping it now cuts what still runs", "bold yellow")
    if safe:
        return plain(ran).append("safe to stop", "bold green")
    if drain["running"] is None:
        state = "waiting until every Envoy knows of the drain"
    else:
        idle = f"idle {min(drain['idle_looks'], IDLE_LOOKS)} of {IDLE_LOOKS} looks in a row"
        state = f"{plural(drain['running'], 'request')} running{_whose(drain)}, {idle}"
    return plain(f"{ran}{state}; ").append("do not stop yet", "bold yellow")


def _whose(drain: Json) -> str:
    """Name the Envoys with most of what still runs."""
    busy = list(drain.get("running_on", {}).items())
    named = ", ".join(f"{node}: {'unknown' if count is None else count}" for node, count in busy[:BUSY_LIMIT])
    more = f" and {len(busy) - BUSY_LIMIT} more" if len(busy) > BUSY_LIMIT else ""
    return f" ({named}{more})" if busy else ""
