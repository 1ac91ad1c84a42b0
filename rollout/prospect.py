"""What would happen, in words for people who ask before they do it: what begins, what goes, where traffic goes."""

from collections.abc import Iterator, Sequence

from rollout.exposure import FULL_BP
from rollout.machine import in_waves, lane_bp, plan_of, share_bp
from rollout.record import Rollout, Version
from rollout.spec import Stage, Strategy
from rollout.state import Phase, Role, State
from rollout.waves import words

TOLD = 5  # addresses or locations; of more, only how many there are


def begins(rollout: Rollout, backends: Sequence[str]) -> str:
    """Say what a rollout does that is not there yet."""
    service, stable, candidate = rollout.service, rollout.stable, rollout.candidate
    where = _backends(backends) if backends else "backends that a hook will name"
    stages = ", ".join(_stages(rollout.strategy, rollout.state))
    waves = f", in {len(rollout.strategy.waves)} waves of locations" if rollout.strategy.waves else ""
    first = f"all traffic stays on {stable} until {candidate} is healthy"
    what = f"rollout {rollout.id} of '{service}' begins: {stable} -> {candidate} on {where}"
    note = stages_note(rollout.strategy, rollout.state)
    why = f" ({note})" if note is not None else ""
    return f"{what}; stages: {stages}{why}{waves}; {first}"


def stages_note(strategy: Strategy, state: State) -> str | None:
    """Say which stages were written and why others are made of them; None where they are as they were written."""
    if [stage.weight_bp for stage in strategy.stages] == [step.weight_bp for step in plan_of(strategy, state)]:
        return None
    words = ", ".join(f"{stage.weight_bp / 100:g} %" for stage in strategy.stages if stage.weight_bp)
    why = f"a stage gives the candidate at least {strategy.gate.min_rps:g} requests/s (gate.min_rps)"
    return f"stages are written as {words}; {why}"


def what_now(rollout: Rollout | None) -> str:
    """Say what may follow the end of a rollout."""
    if rollout is None:
        return ""
    if rollout.state.loser is Role.CANDIDATE:
        return "; the last one was rolled back, and `rollout retry` begins it again"
    return "; the last one has completed, and `rollout undo` goes back"


def follows(rollout: Rollout, state: State) -> str:
    """Say what a rollout in progress goes on to; "" when nothing that people decide by changes."""
    before = rollout.state
    if _decided(before) == _decided(state):
        return ""
    strategy, head = rollout.strategy, f"rollout {rollout.id} of '{rollout.service}'"
    here, there = place(strategy, before), place(strategy, state)
    lanes = list(_lanes(before, state))
    if lanes:
        more = f" and {len(lanes) - TOLD} more locations" if len(lanes) > TOLD else ""
        what = f"{head}: {'; '.join(lanes[:TOLD])}{more}"
    elif here != there:
        note = stages_note(strategy, state) if Phase.SHIFTING in (state.phase, state.resume) else None
        what = f"{head} goes from {here} to {there}" + (f" ({note})" if note is not None else "")
    elif state.approved != before.approved:
        what = f"{head} may leave {here} as soon as the gate agrees"
    else:
        what = f"{head} stays in {here}"
    return f"{what}; {traffic(rollout, state)} ({state.reason})"


def place(strategy: Strategy, state: State) -> str:
    """Say where a rollout stands."""
    phase = state.phase.replace("_", " ")
    if Phase.SHIFTING not in (state.phase, state.resume):
        return phase
    if in_waves(strategy, state):
        where = f"wave {state.wave + 1} of {len(strategy.waves)}" if state.wave >= 0 else "before the first wave"
    else:
        where = _stage(state, len(plan_of(strategy, state)), share_bp(strategy, state))
    return where if state.phase is Phase.SHIFTING else f"a pause in {where}"


def traffic(rollout: Rollout, state: State) -> str:
    """Say where traffic goes."""
    share = share_bp(rollout.strategy, state)
    if share <= 0:
        return f"all traffic goes to {rollout.stable}"
    if share >= FULL_BP:
        return f"all traffic goes to {rollout.candidate}"
    return f"{rollout.candidate} gets {share / 100:.4g} % of the traffic, {rollout.stable} the rest"


def goes(service: str, version: str, addresses: Sequence[str], left: int) -> str:
    """Say which backends of a version are let go, and how many others it has."""
    others = "no other backend" if not left else f"{left} other backend{'' if left == 1 else 's'}"
    what = f"{_backends(addresses)} of '{version}' of '{service}' drained"
    return f"{what}: nothing new goes there, what runs may end; {version} has {others}"


def _decided(state: State) -> tuple[object, ...]:
    """Return what differs when a command has done anything."""
    lanes = {name: (lane.phase, lane.stage, lane.approved, lane.awaited) for name, lane in state.lanes.items()}
    pace = (state.hurried, state.back_bp, state.awaited, state.approved)
    return (state.phase, state.stage, state.wave, state.resume, state.loser, pace, lanes)


def _lanes(before: State, after: State) -> Iterator[str]:
    for location, lane in sorted(after.lanes.items()):
        known = before.lanes.get(location)
        if known is None:
            yield f"{words(location)} begins with {_stage(lane, len(lane.plan), lane_bp(lane))}"
        elif (known.phase, known.stage) != (lane.phase, lane.stage):
            yield f"{words(location)} goes from {_lane_place(known)} to {_lane_place(lane)}"
        elif known.approved != lane.approved:
            yield f"{words(location)} may leave {_lane_place(known)} as soon as the gate agrees"


def _lane_place(lane: State) -> str:
    if lane.phase is Phase.SHIFTING:
        return _stage(lane, len(lane.plan), lane_bp(lane))
    return "all of it" if lane.loser is Role.STABLE else lane.phase.replace("_", " ")


def _stage(state: State, stages: int, share_bp: float) -> str:
    return f"stage {state.stage + 1} of {stages} ({share_bp / 100:.4g} %)"


def _stages(strategy: Strategy, state: State) -> Iterator[str]:
    for step in plan_of(strategy, state):
        yield _stage_words(strategy.stages[step.stage], step.weight_bp)


def _stage_words(stage: Stage, weight_bp: int) -> str:
    asks = " with an approval" if stage.approve else ""
    if stage.match:
        return f"only requests that match{asks}"
    if stage.mirror_bp is not None:
        return f"a copy of {stage.mirror_bp / 100:g} %{asks}"
    return f"{weight_bp / 100:g} %{asks}" if stage.weight_bp else f"preview{asks}"


def _backends(addresses: Sequence[str]) -> str:
    count = f"{len(addresses)} backend{'' if len(addresses) == 1 else 's'}"
    return f"{count} ({', '.join(addresses)})" if len(addresses) <= TOLD else count


def scales(version: Version, coming: Sequence[str], back: Sequence[str], going: Sequence[str]) -> str:
    """Say what a version gets and loses."""
    news = [f"{_backends(coming)} added: used when health checks find them healthy"] if coming else []
    kept = [f"{_backends(back)} stay after all"] if back else []
    lost = [f"{_backends(going)} drained, and then no backends of it any more"] if going else []
    return f"'{version.name}' of '{version.service}': {'; '.join((*news, *kept, *lost))}"
