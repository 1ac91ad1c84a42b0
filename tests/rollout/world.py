"""A world in which a rollout runs: Envoys that are slow, away or refuse, backends, traffic and what is seen of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from rollout.drain import Active
from rollout.exposure import FULL_BP
from rollout.gate import Host, Look, Past, Stratum, Tally
from rollout.hooks import Answer, HookKind
from rollout.machine import calls
from rollout.spec import Strategy
from rollout.state import (
    Command,
    Effect,
    LetGo,
    Phase,
    Retire,
    Role,
    Seen,
    Serve,
    Split,
    State,
)
from tests.rollout.judging import usual

NODES = ("a", "b", "c")
STRATEGY = Strategy.model_validate(
    {
        "stages": [
            {"weight": "10%", "hold": "2s", "timeout": "8s"},
            {"weight": "50%", "hold": "0s", "timeout": "8s"},
            {"weight": "100%", "hold": "1s", "timeout": "8s"},
        ],
        "gate": {"warmup": "0s", "blind_timeout": "4s", "bad_host": "drain"},
        "warm_timeout": "6s",
        "keep_stable": "1s",
        "drain_timeout": "5s",
    }
)
BUSY = Strategy.model_validate(
    {
        **STRATEGY.model_dump(by_alias=True, mode="json"),
        "stages": [
            {"mirror": "50%", "hold": "1s", "timeout": "8s"},
            {"weight": "10%", "hold": "2s", "timeout": "8s"},
            {"weight": "50%", "hold": "0s", "timeout": "8s", "approve": True},
            {"weight": "100%", "hold": "1s", "timeout": "8s", "on_timeout": "rollback"},
        ],
        "hooks": [{"at": kind, "command": "ask"} for kind in HookKind if kind is not HookKind.EVENT],
        "progress_deadline": "40s",
    }
)
"""People, hooks and calendars have a say, too."""
GRACE_S = 3.0  # so long an Envoy that went away is waited for
LOOK_EVERY_S = 1.0
IN_FLIGHT_S = 1.0  # so long requests go on after the weight is gone
BAD_HOST = "10.0.0.7:80"
FIRST = Split(0, frozenset({Role.STABLE}))
ENDS_WITHIN_S = 120.0


@dataclass
class Envoy:
    """A proxy: what it has, what it was offered since when, and what it cannot take."""

    has: Split = FIRST
    offered: Split = FIRST
    offered_s: float = 0.0
    away_s: float | None = None
    slow_s: float = 0.0
    refuses: Callable[[Split], bool] = lambda _split: False
    busy_until_s: dict[Role, float] = field(default_factory=lambda: dict.fromkeys(Role, 0.0))

    def live(self, served: Split, now_s: float) -> None:
        for role in Role:
            if share(self.has, role):
                self.busy_until_s[role] = now_s + IN_FLIGHT_S
        if self.away_s is not None:
            return
        if self.offered != served:
            self.offered, self.offered_s = served, now_s
        if not self.refuses(served) and now_s >= self.offered_s + self.slow_s:
            self.has = served


def share(split: Split, role: Role) -> int:
    return split.candidate_bp if role is Role.CANDIDATE else FULL_BP - split.candidate_bp


@dataclass
class World:
    """What there is outside of the machine."""

    now_s: float = 0.0
    served: Split = FIRST
    envoys: dict[str, Envoy] = field(default_factory=lambda: {node: Envoy() for node in NODES})
    healthy: bool = True
    blind: bool = False
    requests: int = 20_000
    errors: float = 0.0
    one_bad: bool = False  # all errors are one backend's
    leaving: frozenset[str] = frozenset()
    rate_rps: float | None = None
    looked_s: float = 0.0
    retired: bool = False
    strategy: Strategy = STRATEGY
    frozen: str = ""
    agreeing: bool = True  # whether hooks agree; those that ask for a rollback do not
    silent: bool = False  # whether hooks hang

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        for envoy in self.envoys.values():
            envoy.live(self.served, self.now_s)

    def connected(self) -> dict[str, Envoy]:
        return {node: envoy for node, envoy in self.envoys.items() if envoy.away_s is None}

    def missing(self) -> dict[str, str]:
        away = {node: envoy.away_s for node, envoy in self.envoys.items() if envoy.away_s is not None}
        return {node: "is disconnected" for node, since_s in away.items() if self.now_s - since_s < GRACE_S}

    def refused(self) -> dict[str, str]:
        return {node: "refused it: no" for node, envoy in self.connected().items() if envoy.refuses(self.served)}

    def lagging(self) -> dict[str, str]:
        late = {node: "has not answered" for node, envoy in self.connected().items() if envoy.has != self.served}
        return {**self.missing(), **late, **self.refused()}

    def observe(self, state: State, command: Command | None) -> Seen:
        seen = Seen(
            self.now_s,
            len(self.connected()),
            fleet=len(self.connected()) + len(self.missing()),
            served=self.served,
            lagging=self.lagging(),
            refused=self.refused(),
            leaving=self.leaving,
            retired=self.retired,
            frozen=self.frozen,
            answers=self.answers(state),
            command=command,
        )
        match state.phase:
            case Phase.WARMING if self.now_s > state.since_s:
                unready = () if self.healthy else ("a: 0 of 2 backends healthy",)
                return replace(seen, unready=unready, past=Past(rate_rps=self.rate_rps))
            case Phase.SHIFTING | Phase.PAUSED if (
                self.served.candidate_bp or self.served.mirror_bp
            ) and self.now_s - self.looked_s >= LOOK_EVERY_S:
                self.looked_s = self.now_s
                return replace(seen, looked_s=self.now_s, look=self.look())
            case Phase.DRAINING if self.connected():
                assert state.loser is not None
                return replace(seen, active=Active(self.now_s - 0.01, self.running(state.loser)))
            case _:
                return seen

    def answers(self, state: State) -> Mapping[str, Answer]:
        wanted = () if self.silent else calls(self.strategy, state)
        kinds = {call.key: self.strategy.hooks[call.number].at for call in wanted}
        return {
            key: Answer(agreed=self.agreeing and kind is not HookKind.ROLLBACK, at_s=self.now_s)
            for key, kind in kinds.items()
        }

    def look(self) -> Look:
        if self.blind:
            return Look(self.now_s, (), blind=("a: no stats",))
        settled = [envoy.has for node, envoy in self.connected().items() if node not in self.lagging()]
        errors = 0.0 if self.one_bad and self.leaving else self.errors
        strata = tuple(
            Stratum(
                split.candidate_bp,
                self.did(share(split, Role.STABLE), 0.0),
                self.did(share(split, Role.CANDIDATE), errors),
            )
            for split in settled
        )
        return Look(self.now_s, strata, hosts=self.hosts(strata) if self.one_bad else {})

    def did(self, weight: int, errors: float) -> Tally:
        requests = self.requests * weight // FULL_BP
        return usual(requests, int(errors * requests))

    def hosts(self, strata: tuple[Stratum, ...]) -> dict[str, Host]:
        requests, errors = (
            sum(getattr(stratum.candidate, what) for stratum in strata) for what in ("requests", "errors")
        )
        return {BAD_HOST: Host(max(requests // 2, errors), errors), "10.0.0.8:80": Host(requests // 2, 0)}

    def running(self, loser: Role) -> Mapping[str, int | None]:
        return {
            node: None if self.blind else int(self.now_s < envoy.busy_until_s[loser])
            for node, envoy in self.connected().items()
        }

    def apply(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case Serve(split):
                    self.served = split
                case LetGo(address):
                    self.leaving |= {address}
                case Retire():
                    self.retired = True
                case _:
                    assert_never(effect)

    def heal(self) -> None:
        self.healthy, self.blind, self.frozen, self.agreeing, self.silent = True, False, "", True, False
        for envoy in self.envoys.values():
            envoy.away_s, envoy.slow_s, envoy.refuses = None, 0.0, lambda _split: False
