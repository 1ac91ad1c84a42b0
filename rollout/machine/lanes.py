"""A rollout in waves while traffic is shifted: each location goes its own way, a lane, by the same steps."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from rollout.gate import Evidence, Fail, Inconclusive, Past, judge
from rollout.hooks import Call, HookKind
from rollout.machine import alone, asking
from rollout.machine.asking import asked, demanding, of_kind, refusing
from rollout.machine.lending import called_in, calls_into, in_lane, kept, lent, of_wave
from rollout.machine.moves import enter, pause, roll_back, take_back, to_stage, wait
from rollout.machine.phases import overdue
from rollout.machine.planned import DONE, in_waves, lane_bp, plan, plan_of, strategy_of, wanted
from rollout.machine.seeing import percent
from rollout.spec import OnFailure, Strategy
from rollout.state import Awaited, Phase, Place, Role, Seen, Split, State
from rollout.waves import joining, unmet, words

NOBODY = "no Envoy is there"
REASONS_TOLD = 3
_NOT_SEEN = Place(0)
_ENDS_OF_A_LANE = (Phase.DRAINING, Phase.REMOVING)  # where it goes from rolling back: nothing leaves before all do


def stepped(strategy: Strategy, state: State, seen: Seen) -> State:
    """Return what follows when nobody asks for anything."""
    following = {location: _moved(strategy, state, location, seen) for location in state.lanes}
    failed = {location: lane for location, lane in following.items() if _fails(state.lanes[location], lane)}
    known = with_lanes(state, following, seen)
    back = _reason_to_go_back(strategy, known, seen)
    if failed and strategy.on_failure is OnFailure.ALL:
        back = back or told(failed, _fault)
    return back_everywhere(known, seen, back) if back else summed_up(strategy, _joined(strategy, known, seen), seen)


def _reason_to_go_back(strategy: Strategy, state: State, seen: Seen) -> str:
    """Say why all locations are taken back, whatever each of them shows; "" when they are not."""
    asked_for = demanding(strategy, seen) or (refusing(strategy, seen) if state.phase is Phase.SHIFTING else "")
    if asked_for or (seen.dead and state.lanes):
        return asked_for or seen.dead
    budget, cost = strategy.gate.error_budget, sum(lane.evidence.excess for lane in state.lanes.values())
    if budget is not None and cost >= budget:
        return f"all locations together have had {cost:.0f} bad answers too many, and the error budget is {budget}"
    if undone(state):
        return ""  # each has a deadline of its own
    last_s = max((lane.since_s for lane in state.lanes.values()), default=state.since_s)
    return overdue(strategy, replace(state, since_s=max(state.since_s, last_s)), seen)


def back_everywhere(state: State, seen: Seen, reason: str) -> State:
    """Take back the whole rollout, in one push; or stop all of it, where that cannot be undone."""
    following = take_back(state, seen, reason)
    if following.phase is not Phase.PAUSED:
        return replace(following, lanes={})
    stopped = {location: _stopped(lane, seen, following.reason) for location, lane in state.lanes.items()}
    return replace(following, lanes=stopped)


def everywhere(state: State, seen: Seen, reason: str) -> State:
    """Give the candidate all traffic of all locations."""
    return replace(enter(state, Phase.RETAINING, seen, reason), loser=Role.STABLE, lanes={})


def due(strategy: Strategy, state: State, free: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """Return the wave that locations may join now, and which, of those that are in none.

    The last wave takes in what comes later.
    """
    last = len(strategy.waves) - 1
    if state.wave == last:
        return last, joining(strategy.waves[last], free)
    return (state.wave, ()) if undone(state) else following_wave(strategy, state, free)


def _due_by_itself(strategy: Strategy, state: State, free: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """Return what is due: after a wave in which no location has passed, none before somebody says so."""
    return (state.wave, ()) if _is_lost(strategy, state) else due(strategy, state, free)


def _is_lost(strategy: Strategy, state: State) -> bool:
    """Say whether a wave that others follow has shown nothing: its locations went back, or their Envoys are gone."""
    here = [lane for lane in state.lanes.values() if lane.wave == state.wave]
    passed = any(lane.loser is Role.STABLE for lane in here)
    return bool(here) and not passed and state.wave + 1 < len(strategy.waves)


def following_wave(strategy: Strategy, state: State, free: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """Return the next wave that has a location, and which; or one of names that none has: somebody must decide then."""
    last = len(strategy.waves) - 1
    for number in range(state.wave + 1, last + 1):
        found = joining(strategy.waves[number], free)
        if found or isinstance(strategy.waves[number].locations, tuple):
            return number, found
    return last, ()


def calls(strategy: Strategy, state: State) -> tuple[Call, ...]:
    """Return the hooks that are wanted now; one that has agreed already, and is not asked again, is not."""
    if not in_waves(strategy, state):
        return asking.calls(strategy, state)
    wanted_now = list(of_kind(strategy, HookKind.ROLLBACK))
    if state.phase is Phase.SHIFTING:
        wanted_now += of_kind(strategy, HookKind.ROLLOUT)
    for lane in undone(state).values():
        of_lane = asking.calls(strategy_of(strategy, lane), lent(state, lane))
        wanted_now += (of_wave(call, lane.wave) for call in of_lane)
    if state.awaited is Awaited.HOOK and not undone(state):
        wanted_now += calls_into(strategy, state.wave + 1)
    return tuple(call for call in dict.fromkeys(wanted_now) if call.key not in state.called)


def undone(state: State) -> Mapping[str, State]:
    """Return the lanes that a wave waits for."""
    return {location: lane for location, lane in state.lanes.items() if not _is_done(lane)}


def begun(strategy: Strategy, state: State, seen: Seen, number: int, found: tuple[str, ...]) -> State:
    """Return the state with these locations in this wave."""
    absent = unmet(strategy.waves[number], (*state.lanes, *found))
    without = f"; no Envoy is in {told_names(absent)}" if absent else ""
    reason = f"wave {number + 1} of {len(strategy.waves)} has begun: {told_names(found)}{without}"
    peers = len(state.lanes) + len(seen.locations)
    new = {each: replace(_first(strategy, seen, number, _past_at(seen, each)), peers=peers) for each in found}
    known = state if number == state.wave else replace(enter(state, Phase.SHIFTING, seen, reason), wave=number)
    return replace(known, lanes={**known.lanes, **new}, awaited=None, waiting="")


def with_lanes(state: State, following: Mapping[str, State], seen: Seen) -> State:
    """Return the state with what has become of its lanes, and with what one of them has done for all."""
    let_go = state.let_go or next((lane.let_go for lane in following.values() if lane.let_go), "")
    if let_go and not state.let_go:
        following = {location: _pardoned(lane, let_go, seen) for location, lane in following.items()}
    called = state.called.union(*(called_in(lane) for lane in following.values()))
    point = state.point or next((lane.point for lane in following.values() if lane.point), "")
    lanes = {location: kept(lane) for location, lane in following.items()}
    return replace(state, lanes=lanes, called=called, point=point, let_go=let_go)


def summed_up(strategy: Strategy, state: State, seen: Seen) -> State:
    """Return the state with the phase of the rollout that its lanes make."""
    open_ones = undone(state)
    shifting = [lane for lane in open_ones.values() if lane.phase is Phase.SHIFTING]
    paused = {location: lane for location, lane in open_ones.items() if lane.phase is Phase.PAUSED}
    if shifting:
        known = enter(state, Phase.SHIFTING, seen, "locations go on") if state.phase is Phase.PAUSED else state
        waiting = {location: lane for location, lane in open_ones.items() if lane.awaited is not None}
        if len(waiting) < len(open_ones):
            return replace(known, awaited=None, waiting="")
        first = next(lane.awaited for lane in shifting if lane.awaited is not None)
        return wait(known, first, told(waiting, lambda lane: lane.waiting or lane.reason))
    if paused:
        awaited = {lane.awaited for lane in paused.values()}
        return stopped_for(
            state,
            seen,
            Awaited.OPERATOR if awaited == {Awaited.OPERATOR} else Awaited.DECISION,
            told({**paused, **gone_back(state)}, _fate),
        )
    return state if open_ones else _ended(strategy, state, seen)


def stopped_for(state: State, seen: Seen, awaited: Awaited, reason: str) -> State:
    """Pause, or stay paused. Equal when it is for the same as before."""
    if state.phase is Phase.PAUSED:
        return replace(state, awaited=awaited, reason=reason)
    return replace(pause(state, seen, reason), awaited=awaited)


def gone_back(state: State) -> Mapping[str, State]:
    """Return the lanes that were taken back and wait for nobody: every Envoy has that, or there is none."""
    return {location: lane for location, lane in state.lanes.items() if _is_done(lane) and lane.loser is Role.CANDIDATE}


def turned_back(before: State, after: State) -> bool:
    """Say whether a step takes traffic back from the candidate, of all locations or of one."""
    if after.loser is Role.CANDIDATE:
        return before.loser is not Role.CANDIDATE
    return any(_turned(before.lanes.get(location, lane), lane) for location, lane in after.lanes.items())


def taken_back(served: Split, state: State) -> Split:
    """Return what is served now, without the candidate where it was taken back: that may be done before all else."""
    back = {location for location, lane in state.lanes.items() if lane.loser is Role.CANDIDATE}
    left = {
        location: min(bp, lane_bp(state.lanes[location])) if location in back else bp
        for location, bp in served.by_location.items()
    }
    return replace(served, by_location={location: bp for location, bp in left.items() if bp})


def again(lane: State, seen: Seen, reason: str) -> State:
    """Return a lane that was taken back, at its beginning."""
    fresh = State(Phase.SHIFTING, seen.now_s, reason=reason, plan=lane.plan, wave=lane.wave)
    return replace(fresh, peers=lane.peers, looked_s=max(lane.looked_s, seen.looked_s))


def told(lanes: Mapping[str, State], what: Callable[[State], str]) -> str:
    """Say something of each of these lanes."""
    return told_of({location: what(lane) for location, lane in lanes.items()})


def told_of(said: Mapping[str, str]) -> str:
    """Say this of locations, of those once of whom it is the same; only some of it, where it is much."""
    known = _together(said)
    more = len(known) - REASONS_TOLD
    parts = [f"{told_names(names)}: {each}" for each, names in list(known.items())[:REASONS_TOLD]]
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")


def told_lanes(before: Mapping[str, State], state: State) -> tuple[str, ...]:
    """Say which locations have another phase or stage than before, those together that have the same now."""
    found: dict[str, str] = {}
    for location, lane in state.lanes.items():
        known = before.get(location)
        if known is None or (known.phase, known.stage) != (lane.phase, lane.stage):
            found[location] = f"{lane.phase.replace('_', ' ')} at {percent(lane_bp(lane))}: {lane.reason}"
    return tuple(f"{told_names(names)} {what}" for what, names in _together(found).items())


def _together(said: Mapping[str, str]) -> Mapping[str, tuple[str, ...]]:
    """Return by what is said of whom, in the order of their names."""
    found: dict[str, tuple[str, ...]] = {}
    for location, what in sorted(said.items()):
        found[what] = (*found.get(what, ()), location)
    return found


def told_names(locations: tuple[str, ...]) -> str:
    more = len(locations) - REASONS_TOLD
    return ", ".join(map(words, locations[:REASONS_TOLD])) + (f" and {more} more" if more > 0 else "")


def step_of_lane(strategy: Strategy, state: State, location: str, seen: Seen) -> State:
    """Return what becomes of a lane by what is seen of it. Raises Conflict for a command that it does not allow."""
    lane = state.lanes[location]
    of_lane = strategy_of(strategy, lane)
    there = _seen_at(lane, wanted(of_lane, lane), location, seen)
    following = alone.moved(of_lane, lent(state, lane), there)
    if following.phase in _ENDS_OF_A_LANE:
        following = replace(enter(following, Phase.ROLLED_BACK, seen, following.reason), drain=None)
    if following.phase not in DONE:
        return following
    return replace(following, evidence=replace(Evidence.start(), excess=following.evidence.excess))


def _moved(strategy: Strategy, state: State, location: str, seen: Seen) -> State:
    lane, place = state.lanes[location], seen.places.get(location)
    if place is None or lane.phase is Phase.ROLLED_BACK:
        return lane
    if lane.phase is Phase.RETAINING:
        return _watched(strategy, state, location, seen)
    if place.missing and lane.loser is None:  # they may be all that there were
        return step_of_lane(strategy, state, location, seen)
    if not seen.connected:
        return lane
    if not place.fleet:
        return replace(lane, waiting=NOBODY, converged_s=None)
    return _again_there(state, lane, seen) if lane.waiting == NOBODY else step_of_lane(strategy, state, location, seen)


def _watched(strategy: Strategy, state: State, location: str, seen: Seen) -> State:
    """Judge a location that is done by its errors, for as long as others are not: what has gone bad there goes back."""
    lane, place = state.lanes[location], seen.places[location]
    if place.look is None or place.looked_s <= lane.looked_s:
        return lane
    of_lane = strategy_of(strategy, lane)
    evidence, verdict = judge(of_lane.gate, (), lane.evidence, place.look, plan_of(of_lane, lane)[-1])
    known = replace(lane, evidence=evidence, looked_s=place.looked_s)
    if isinstance(verdict, Fail):
        known = replace(known, verdict=verdict)
        return known if state.point else roll_back(known, seen, verdict.reason)
    return replace(known, verdict=verdict) if evidence.alone.since_s is not None else known


def _again_there(state: State, lane: State, seen: Seen) -> State:
    """Return a lane whose Envoys are back. It goes on, but not in a pause that somebody asked for meanwhile."""
    back = replace(lane, waiting="")
    if lane.phase is not Phase.SHIFTING:
        return back
    back = to_stage(back, seen, lane.stage, "its Envoys are back")
    return stopped_for(back, seen, Awaited.OPERATOR, state.reason) if state.awaited is Awaited.OPERATOR else back


def _seen_at(lane: State, mine: Split, location: str, seen: Seen) -> Seen:
    """Return the observation as if there were this location alone; `mine` is what its Envoys should be served."""
    place = seen.places.get(location, _NOT_SEEN)
    served = seen.served
    if served is not None and served.present == mine.present:
        served = replace(mine, candidate_bp=served.by_location.get(location, 0))
    return replace(
        seen,
        connected=place.connected,
        fleet=place.fleet,
        served=served,
        lagging=place.lagging,
        refused=place.refused,
        missing=place.missing,
        looked_s=place.looked_s,
        look=place.look,
        past=None,
        answers={in_lane(key, lane.wave): answer for key, answer in seen.answers.items()},
        locations=(),
        places={},
    )


def _joined(strategy: Strategy, state: State, seen: Seen) -> State:
    """Begin the next wave when it is due, and take those in that have come; once hooks agree and nothing is frozen."""
    if not seen.connected or state.awaited is Awaited.OPERATOR:
        return state
    number, found = _due_by_itself(strategy, state, seen.locations)
    if not found or not seen.places.keys() >= set(found):  # what their stages are planned by is seen next
        return state
    if seen.unhealthy:
        return replace(state, awaited=None, waiting=seen.unhealthy)
    if seen.frozen:
        return wait(state, Awaited.THAW, seen.frozen)
    if number > max(0, state.wave):  # the first was confirmed before traffic began
        confirmed = asked(strategy, state, seen, *calls_into(strategy, state.wave + 1))
        if confirmed.waiting:
            return wait(confirmed.state, Awaited.HOOK, confirmed.waiting)
        state = confirmed.state
    return begun(strategy, state, seen, number, found)


def _ended(strategy: Strategy, state: State, seen: Seen) -> State:
    """What follows when no lane moves any more, and none waits: the end, or somebody must decide."""
    number, found = _due_by_itself(strategy, state, seen.locations)
    if found or not seen.connected or state.awaited is Awaited.OPERATOR:
        return state
    absent = unmet(strategy.waves[number], ()) if number > state.wave else ()
    if absent:
        what = f"wave {number + 1} has no Envoy: none is in {told_names(absent)}"
        return stopped_for(state, seen, Awaited.DECISION, f"{what}; resume goes on without it")
    failed = gone_back(state)
    if not failed and _is_lost(strategy, state):
        here = {location: lane.waiting for location, lane in state.lanes.items() if lane.wave == state.wave}
        what = f"wave {state.wave + 1} has shown nothing: {told_of(here)}; resume goes on without it"
        return stopped_for(state, seen, Awaited.DECISION, what)
    if not failed:
        gone = tuple(sorted(location for location, lane in state.lanes.items() if lane.waiting == NOBODY))
        but = f" but {told_names(gone)}: {NOBODY}" if gone else ""
        return everywhere(state, seen, f"the candidate has passed in every location{but}")
    on = "goes everywhere" if number == len(strategy.waves) - 1 else "begins the next wave"
    what = f"resume tries again, promote {on} all the same, abort takes all back"
    why = told(failed, lambda lane: lane.reason)
    return stopped_for(replace(state, wave=number), seen, Awaited.DECISION, f"went back: {why}; {what}")


def _first(strategy: Strategy, seen: Seen, number: int, past: Past) -> State:
    fresh = State(Phase.SHIFTING, seen.now_s, looked_s=seen.looked_s, reason=f"wave {number + 1} has begun")
    lane = replace(fresh, wave=number)
    return replace(lane, plan=plan(strategy_of(strategy, lane), past))


def _past_at(seen: Seen, location: str) -> Past:
    """Return what stable did before, with the traffic that a location has of it if all Envoys have the same."""
    past, place = seen.past or Past(), seen.places.get(location)
    if past.rate_rps is None or place is None or not seen.connected:
        return past
    return replace(past, rate_rps=past.rate_rps * place.connected / seen.connected)


def _fate(lane: State) -> str:
    return f"went back, {lane.reason}" if lane.loser is Role.CANDIDATE else lane.reason


def _fault(lane: State) -> str:
    return lane.verdict.reason if lane.loser is None and isinstance(lane.verdict, Fail) else lane.reason


def _stopped(lane: State, seen: Seen, reason: str) -> State:
    return pause(lane, seen, reason) if lane.phase is Phase.SHIFTING else lane


def _pardoned(lane: State, address: str, seen: Seen) -> State:
    """One backend is let go in all locations, so that its errors count in none."""
    if lane.let_go or lane.phase not in (Phase.SHIFTING, Phase.PAUSED):
        return replace(lane, let_go=address)
    going_on = Inconclusive(f"{address} is let go, the others go on")
    return replace(lane, let_go=address, verdict=going_on, evidence=lane.evidence.pardoned(seen.now_s))


def _is_done(lane: State) -> bool:
    return lane.phase in DONE or lane.waiting == NOBODY


def _fails(before: State, after: State) -> bool:
    """Say whether a lane has failed in this step: it goes back, or would if that could be done."""
    fails_now = isinstance(after.verdict, Fail) and not isinstance(before.verdict, Fail)
    return _turned(before, after) or (fails_now and after.loser is None)


def _turned(before: State, after: State) -> bool:
    return after.loser is Role.CANDIDATE and before.loser is not Role.CANDIDATE
