"""A strategy's course: the machine itself, led through a rollout on a simulated clock, with all around it made up.

Envoys ACK within a second, backends are healthy, people and hooks agree after the time that a story gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from rollout.drain import Active
from rollout.forecast.traffic import Change, Service, Traffic
from rollout.gate import Look, Stratum
from rollout.hooks import Answer
from rollout.machine import advance, calls, due, plan, wanted
from rollout.machine.planned import DONE, lane_bp, stage_of
from rollout.spec import Strategy
from rollout.state import ENDED, Awaited, Command, Phase, Place, Retire, Seen, Serve, Split, State, start

MATCHING_BP = 500  # of all requests, in a stage that lets only some through by what they have
STREAM_S = 3  # so long a request lasts that runs when its version is drained
PATIENT_S = 60
MOST_STEPS = 200_000
MONDAY = datetime(2027, 3, 1, 10, 0, tzinfo=UTC)
NAMES = ("v1", "v2")


@dataclass(frozen=True, slots=True)
class Story:
    """What happens outside of the machine.

    The candidate fails where it has `bad_from_bp` or more (None: nowhere), from `bad_after_s` on.
    """

    rate_rps: float = 1000.0
    bad_from_bp: int | None = None
    locations: tuple[str, ...] = ()
    bad_after_s: int = 0
    bad_location: str = ""
    begins: datetime = MONDAY
    approves_s: int = 300
    hooks_s: int = 20
    orders: tuple[tuple[int, Command], ...] = ()
    """What somebody asks for, and when."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A state, from `at_s` on until the next moment, and what Envoys are served in it."""

    at_s: float
    state: State
    split: Split


@dataclass(slots=True)
class _World:
    """All that is not the machine."""

    strategy: Strategy
    story: Story
    now_s: int = 0
    served: Split | None = None
    retired: bool = False
    asked: dict[str, int] = field(default_factory=dict)
    obeyed: int = 0
    traffic: dict[str, Traffic] = field(default_factory=dict)

    def __post_init__(self) -> None:
        places = self.story.locations or ("",)
        rate = Service(self.story.rate_rps / len(places), late_by=self.strategy.gate.latency_tolerance)
        for number, place in enumerate(places):
            bad = self.story.bad_from_bp is not None and self.story.bad_location in ("", place)
            change = Change(errors=0.5, from_bp=self.story.bad_from_bp or 0) if bad else Change()
            self.traffic[place] = Traffic(rate, change, number)

    def seen(self, state: State) -> Seen:
        looking = (state.resume or state.phase) is Phase.SHIFTING
        whole = Service(self.story.rate_rps, late_by=self.strategy.gate.latency_tolerance).past()
        places = self._places(state) if self.story.locations else {}
        nodes = max(1, len(self.story.locations))
        return Seen(
            self.now_s,
            connected=nodes,
            fleet=nodes,
            served=self.served,
            unready=(),
            looked_s=self.now_s if looking and not places else -1.0,
            look=self._look("", self._weight_bp(state)) if looking and not places else None,
            past=whole,
            active=self._active(state),
            retired=self.retired,
            frozen=self._frozen(),
            answers=self._answers(state),
            locations=tuple(each for each in self.story.locations if each not in state.lanes),
            places=places,
        )

    def _look(self, place: str, weight_bp: int) -> Look:
        good_yet = self.now_s < self.story.bad_after_s
        made = self.traffic[place]
        if good_yet:
            made = Traffic(made.service, Change(), 0)
        stratum = made.look(self.now_s, weight_bp)
        return Look(self.now_s, (Stratum(weight_bp, stratum.stable, stratum.candidate),), made.past, names=NAMES)

    def _weight_bp(self, state: State) -> int:
        stage = stage_of(self.strategy, state)
        return MATCHING_BP if stage is not None and stage.match else self.served.candidate_bp if self.served else 0

    def _places(self, state: State) -> Mapping[str, Place]:
        free = tuple(each for each in self.story.locations if each not in state.lanes)
        _, joining = due(self.strategy, state, free)
        served = self.served.by_location if self.served else {}
        looks = {
            name: self._look(name, served.get(name, 0))
            for name, lane in state.lanes.items()
            if lane.phase not in DONE and served.get(name, 0)
        }
        return {
            name: Place(1, 1, looked_s=self.now_s, look=looks[name]) if name in looks else Place(1, 1)
            for name in (*state.lanes, *joining)
        }

    def _active(self, state: State) -> Active | None:
        running = 2 if self.now_s - state.since_s < STREAM_S else 0
        return Active(self.now_s, {"edge-1": running}) if state.phase is Phase.DRAINING else None

    def _frozen(self) -> str:
        freeze = self.strategy.freeze
        return freeze.why(self.story.begins + timedelta(seconds=self.now_s)) if freeze else ""

    def _answers(self, state: State) -> Mapping[str, Answer]:
        """Each hook agrees some time after it was first wanted; a rollback hook never does."""
        found = {}
        for call in calls(self.strategy, state):
            since_s = self.asked.setdefault(call.key, self.now_s)
            if self.strategy.hooks[call.number].at != "rollback" and self.now_s - since_s >= self.story.hooks_s:
                found[call.key] = Answer(agreed=True, at_s=self.now_s)
        return found

    def ordered(self, state: State, seen: Seen, waited_s: int) -> Seen:
        """Add what a person asks for now."""
        if state.awaited is Awaited.APPROVAL and waited_s >= self.story.approves_s:
            return replace(seen, command=Command.APPROVE, by="ann")
        for at_s, command in self.story.orders[self.obeyed : self.obeyed + 1]:
            if self.now_s >= at_s:
                self.obeyed += 1
                return replace(seen, command=command, by="ann")
        return seen


def course(strategy: Strategy, story: Story) -> tuple[Moment, ...]:
    """Return what becomes of a rollout, moment by moment; equal arguments give an equal course."""
    return tuple(_moments(strategy, story))


def _moments(strategy: Strategy, story: Story) -> Iterator[Moment]:
    world = _World(strategy, story)
    past = Service(story.rate_rps, late_by=strategy.gate.latency_tolerance).past()
    state = start(0.0, "deployed", plan(strategy, past))
    since_s, before = 0, None
    for _ in range(MOST_STEPS):
        seen = world.ordered(state, world.seen(state), world.now_s - since_s)
        state, effects = advance(strategy, state, seen)
        for effect in effects:
            match effect:
                case Serve(split):
                    world.served = split
                case Retire():
                    world.retired = True
        place = _place(strategy, state)
        if place != before:
            since_s, before = world.now_s, place
            yield Moment(world.now_s, state, wanted(strategy, state))
        asks = state.phase is Phase.PAUSED and world.obeyed == len(story.orders)
        if asks or (state.phase in ENDED and world.retired):
            return
        world.now_s += _step_s(state, world.now_s, since_s)
    raise AssertionError(f"no end after {MOST_STEPS} steps: {state}")


def _step_s(state: State, now_s: int, since_s: int) -> int:
    """Look each second at first; where nothing happens for long, in steps that end on whole minutes."""
    if state.awaited is Awaited.THAW:
        return 60 - now_s % 60
    return 10 - now_s % 10 if now_s - since_s > PATIENT_S else 1


def _place(strategy: Strategy, state: State) -> tuple[object, ...]:
    return state.phase, state.stage, state.awaited, state.back_bp, wanted(strategy, state)


def weights(moment: Moment, locations: tuple[str, ...]) -> Mapping[str, int]:
    """Return the candidate's weight in each location at a moment, "" for everywhere where there are none."""
    if not locations:
        return {"": moment.split.candidate_bp}
    if moment.state.phase is Phase.SHIFTING:
        lanes = moment.state.lanes
        return {name: lane_bp(lanes[name]) if name in lanes else 0 for name in locations}
    return dict.fromkeys(locations, moment.split.candidate_bp)
