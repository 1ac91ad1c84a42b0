"""A rollout in waves over many locations: Envoys that ACK late, stay away or refuse, and what each location sees."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from rollout.drain import Active
from rollout.exposure import FULL_BP
from rollout.gate import Host, Look, Past, Stratum
from rollout.hooks import Answer
from rollout.machine import advance, due
from rollout.spec import Strategy
from rollout.state import Command, Phase, Place, Retire, Role, Seen, Serve, Split, State, start
from tests.rollout.judging import usual

LOOK_EVERY_S = 1.0
STAGES = [{"weight": "10%", "hold": "1s", "timeout": "8s"}, {"weight": "100%", "hold": "1s", "timeout": "8s"}]
GATE = {"warmup": "0s", "blind_timeout": "4s", "min_rps": 0}
NONE = Split(0, frozenset({Role.STABLE}))


def strategy(**settings: object) -> Strategy:
    waves = [{"locations": ["eu-1"]}, {"locations": "10%"}, {"locations": "all"}]
    given = {"stages": STAGES, "gate": GATE, "waves": waves, "drain_timeout": "5s", "preview": False, **settings}
    return Strategy.model_validate(given)


def locations(count: int) -> tuple[str, ...]:
    regions = ("eu", "us", "ap", "sa")
    return tuple(f"{regions[number % 4]}/{regions[number % 4]}-{number // 4 + 1}" for number in range(count))


@dataclass
class Site:
    """The Envoys of one location: the weight that they have, and what they were offered since when."""

    has_bp: int = 0
    offered_bp: int = 0
    offered_s: float = 0.0
    slow_s: float = 0.0
    away: bool = False
    refuses: bool = False
    errors: float = 0.0
    bad_host: str = ""  # errors are one backend's
    requests: int = 20_000
    looked_s: float = 0.0

    def live(self, weight_bp: int, now_s: float) -> None:
        if self.away:
            return
        if self.offered_bp != weight_bp:
            self.offered_bp, self.offered_s = weight_bp, now_s
        if now_s >= self.offered_s + self.slow_s and not (self.refuses and weight_bp):
            self.has_bp = weight_bp

    def look(self, now_s: float) -> Look:
        candidate = self.requests * self.has_bp // FULL_BP
        errors = int((0.5 if self.bad_host else self.errors) * candidate)
        stratum = Stratum(self.has_bp, usual(self.requests - candidate), usual(candidate, errors))
        hosts = {self.bad_host: Host(candidate // 2, errors), "10.0.0.8:80": Host(candidate // 2, 0)}
        return Look(now_s, (stratum,), hosts=hosts if self.bad_host else {})


@dataclass
class Fleet:
    """What there is outside of the machine, the state, and all steps since the start with what led to each."""

    strategy: Strategy
    sites: dict[str, Site]
    now_s: float = 0.0
    served: Split = NONE
    retired: bool = False
    answers: Mapping[str, Answer] = field(default_factory=dict)
    rate_rps: float | None = None
    state: State = field(default_factory=lambda: start(0.0, "deployed"))
    steps: list[tuple[State, Seen]] = field(default_factory=list)
    served_before: list[Split] = field(default_factory=list)

    def step(self, seconds: float = 0.1, command: Command | None = None, location: str = "") -> State:
        self.now_s += seconds
        for name, site in self.sites.items():
            site.live(self.weight(name), self.now_s)
        seen = self.observe(command, location)
        following, effects = advance(self.strategy, self.state, seen)
        if following != self.state:
            self.steps.append((following, seen))
        self.state = following
        for effect in effects:
            if isinstance(effect, Serve):
                self.served_before.append(self.served)
                self.served = effect.split
            elif isinstance(effect, Retire):
                self.retired = True
        return following

    def until(self, reached: Callable[[State], bool], within_s: float = 120.0) -> State:
        end_s = self.now_s + within_s
        while not reached(self.state):
            assert self.now_s < end_s, summary(self.state)
            self.step()
        return self.state

    def in_phase(self, *phases: Phase) -> State:
        return self.until(lambda state: state.phase in phases)

    def weight(self, location: str) -> int:
        return self.served.by_location.get(location, self.served.candidate_bp)

    def observe(self, command: Command | None, location: str) -> Seen:
        state = self.state
        here = [name for name, site in self.sites.items() if not site.away]
        free = tuple(sorted(set(here) - state.lanes.keys()))
        waves = bool(self.strategy.waves) and (state.resume or state.phase) is Phase.SHIFTING
        _, joining = due(self.strategy, state, free) if waves else (0, ())
        moving = [name for name, lane in state.lanes.items() if lane.phase is not Phase.ROLLED_BACK]
        return Seen(
            self.now_s,
            len(here),
            fleet=len(here),
            served=self.served,
            lagging={} if waves else dict(self._lagging(here)),
            unready=() if state.phase is Phase.WARMING else None,
            past=Past(rate_rps=self.rate_rps) if joining or state.phase is Phase.WARMING else None,
            active=Active(self.now_s - 0.01, dict.fromkeys(here, 0)) if state.phase is Phase.DRAINING else None,
            retired=self.retired,
            answers=self.answers,
            locations=free if waves else (),
            places={name: self._place(name, command) for name in (*moving, *joining)},
            command=command,
            location=location,
        )

    def _lagging(self, names: list[str]) -> Iterator[tuple[str, str]]:
        return ((name, "has not answered") for name in names if self.sites[name].has_bp != self.weight(name))

    def _place(self, name: str, command: Command | None) -> Place:
        site = self.sites[name]
        if site.away:
            return Place(0)
        refused = {name: "refused it: no"} if site.refuses and self.weight(name) else {}
        look = None
        due_now = self.now_s - site.looked_s >= LOOK_EVERY_S
        if name in self.state.lanes and self.weight(name) and command is None and due_now:
            site.looked_s, look = self.now_s, site.look(self.now_s)
        return Place(1, 1, {**dict(self._lagging([name])), **refused}, refused, (), site.looked_s if look else -1, look)


def fleet(count: int = 20, **settings: object) -> Fleet:
    return Fleet(strategy(**settings), {name: Site() for name in locations(count)})


def phases(state: State) -> Mapping[str, Phase]:
    return {name: lane.phase for name, lane in state.lanes.items()}


def summary(state: State) -> str:
    return f"{state.phase} wave {state.wave}: {state.reason}; {state.waiting}; {phases(state)}"
