"""Whom a rollout waits for, and what its operator can do next: the verbs, and what each would do."""

from collections.abc import Iterator, Mapping

from rollout.screen.words import BEFORE_STAGES, Json, percent

AWAITED: Mapping[str, str] = {
    "operator": "until it is resumed",
    "decision": "somebody must decide",
    "approval": "waits for an approval",
    "thaw": "waits for the end of a freeze",
    "hook": "waits for a hook",
}


def awaited_words(rollout: Json) -> str:
    """Say who is waited for, "" where it is nobody but Envoys and evidence."""
    return AWAITED.get(rollout["awaiting"] or "", "")


def station(stage: Json) -> str:
    """Name a stage of the track by what it does."""
    match stage["kind"]:
        case "mirror":
            return f"mirror {percent(stage['mirror_percent'])}"
        case "match":
            return f"only {stage['match']}"
        case "preview":
            return "preview"
        case _:
            return percent(stage["weight_percent"])


def choices(rollout: Json) -> tuple[tuple[str, str], ...]:
    """Return the verbs that do something now, each with what it does; () where there is none."""
    return tuple(_choices(rollout))


def _choices(rollout: Json) -> Iterator[tuple[str, str]]:
    stable, candidate = rollout["stable"], rollout["candidate"]
    match rollout["phase"]:
        case "pending" | "warming":
            yield "pause", "wait"
            yield "abort", f"stay with {stable}"
        case "shifting":
            yield from _shifting(rollout)
        case "paused":
            yield from _paused(rollout)
        case "retaining":
            yield "abort", f"back to {stable}, which is still warm"
        case "completed":
            # To undo an undo is to have undone once: who wants to go on after all must name the version.
            yield f"undo --to {stable}" if rollout.get("origin") == "undo" else "undo", f"go back to {stable}"
        case "rolled_back":
            yield "retry", f"try {candidate} again"


def _shifting(rollout: Json) -> Iterator[tuple[str, str]]:
    if rollout["awaiting"] == "approval":
        yield "approve", f"agree: {_ahead(rollout)}"
        yield "reject", f"take all traffic back to {rollout['stable']}"
        return
    yield "promote", f"{_ahead(rollout)} {_in_spite_of(rollout)}"
    yield "pause", "stay in this stage"
    yield _abort(rollout)


def _in_spite_of(rollout: Json) -> str:
    return {"thaw": "in spite of the freeze", "hook": "without the hook"}.get(
        rollout["awaiting"] or "", "without the evidence"
    )


def _paused(rollout: Json) -> Iterator[tuple[str, str]]:
    begun = rollout["resume"] not in BEFORE_STAGES
    phases = {each["phase"] for each in rollout.get("locations", ())}
    again = begun and "rolled_back" in phases and "paused" not in phases
    yield "resume", "try again where it went back" if again else "judge this stage on" if begun else "go on"
    if again:
        yield "promote", _all_the_same(rollout)
    elif begun:
        yield "promote", f"{_ahead(rollout)} without the evidence"
    yield _abort(rollout)


def _abort(rollout: Json) -> tuple[str, str]:
    point = rollout["point_of_no_return"]
    undone = f", though '{point}' cannot be undone" if point else ""
    return "abort", f"take all traffic back to {rollout['stable']}{undone}"


def _all_the_same(rollout: Json) -> str:
    """Say where it goes though a location went back."""
    last = rollout["wave"] == len(rollout["waves"]) - 1
    return "to 100 % there, too, all the same" if last else "on to the next wave all the same"


def _ahead(rollout: Json) -> str:
    """Say where the next stage leads."""
    if rollout.get("waves"):
        return "one stage on in each location of the wave"
    following = rollout["track"][rollout["stage"] + 1 :]
    return f"on to {station(following[0])}" if following else f"let {rollout['stable']} go"
