"""Services as they may stand when documents are compared with them: any, and with the words of their plans."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from rollout.declared.documents import Declared, Written, parse
from rollout.declared.planning import plan
from rollout.declared.steps import Placed, Situation, Standing, Step, Wishes
from rollout.discovery.kept import Discovery
from rollout.discovery.source import parse_discover
from rollout.record import Ended, NamedStrategy, Origin, PastVersion, Queued, Rollout, Version
from rollout.spec import Strategy, parse_endpoint
from rollout.state import ENDED, Phase, Role, State

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
QUICK = Strategy.model_validate({"stages": ["50%", "100%"]})
HOOKED = Strategy.model_validate(
    {
        "stages": ["10%", "100%"],
        "hooks": [{"at": "event", "url": "https://chat.example.com/T1/SECRET", "headers": {"x": "SECRET"}}],
        "hold_back": "1m",
        "preview": "off",
        "gate": {"min_rps": 3},
    }
)
STRATEGIES = (Strategy(), QUICK, HOOKED)
FOUND = parse_discover({"http_sd": {"url": "http://sd.example.com/checkout?key=SECRET"}})
NAMED = NamedStrategy("quick", '{"stages": ["50%", "100%"]}', "ann", NOON)
SECRETIVE = NamedStrategy(
    "secretive", '{"hooks": [{"at": "event", "url": "http://a.example.com/SECRET"}]}', "ann", NOON
)


def placed(*addresses: str) -> Placed:
    return Placed(tuple(map(parse_endpoint, addresses)))


def rollout(candidate: str = "v2", **changes: Any) -> Rollout:
    phase, loser = changes.pop("phase", Phase.SHIFTING), changes.pop("loser", None)
    state = State(phase, 0.0, loser=loser, reason="it had errors")
    given = {"stable": "v1", "strategy": QUICK, "origin": Origin.DEPLOY, **changes}
    return Rollout(
        "checkout", 3, candidate=candidate, state=state, revision=9, started_at=NOON, changed_at=NOON, **given
    )


def past(name: str, *addresses: str, strategy: Strategy = QUICK, served: bool = False) -> PastVersion:
    endpoints = tuple(map(parse_endpoint, addresses))
    bare = tuple(each.address for each in endpoints)
    return PastVersion("checkout", name, endpoints, bare, strategy, served, Ended(1.0, NOON))


def service(version: str, *endpoints: str, **more: Any) -> dict[str, Any]:
    given = {"endpoints": list(endpoints)} if endpoints else {}
    return {"kind": "service", "name": "checkout", "version": version, **given, **more}


def parsed(*documents: Any) -> Declared:
    found, problems = parse([Written("", number, each) for number, each in enumerate(documents, start=1)])
    assert problems == ()
    return found


def planned(standing: Standing, *documents: Any, **wishes: bool) -> tuple[Step, ...]:
    situation = Situation({"quick": NAMED}, {"checkout": standing})
    steps, problems = plan(parsed(*documents), situation, Wishes(**wishes))
    assert problems == ()
    return steps


LOCATIONS = st.sampled_from(("", "@eu", "@eu/eu-1"))
PORTS = st.sets(st.integers(1, 6), min_size=1)


@st.composite
def placings(draw: st.DrawFn, host: str) -> Placed:
    ports = sorted(draw(PORTS))
    endpoints = tuple(parse_endpoint(f"{host}:{port}{draw(LOCATIONS)}") for port in ports)
    leaving = frozenset(each.address for each in endpoints[1:] if draw(st.booleans()))
    source = draw(st.sampled_from((None, None, FOUND)))
    from_files = source is None and draw(st.booleans())
    return Placed(endpoints, leaving, from_files, located=not from_files or draw(st.booleans()), discover=source)


@st.composite
def standings(draw: st.DrawFn) -> Standing:
    """Any service: free or not, going forward or back, with something queued or not."""
    versions = {"v1": draw(placings("10.0.0.1"))}
    strategy = draw(st.sampled_from(STRATEGIES))
    if draw(st.booleans()):
        return Standing("checkout", draw(st.sampled_from(("v1",))), versions)
    phase = draw(st.sampled_from(Phase))
    loser = draw(st.sampled_from((None, *Role)))
    if phase in ENDED:
        loser = Role.CANDIDATE if phase is Phase.ROLLED_BACK else Role.STABLE
    begun = rollout(phase=phase, loser=loser, strategy=strategy, origin=draw(st.sampled_from(Origin)))
    in_progress = phase not in ENDED
    if in_progress:
        versions["v2"] = draw(placings("10.0.0.2"))
    elif loser is Role.STABLE:
        versions = {"v2": draw(placings("10.0.0.2"))}
    queued = None
    if in_progress and draw(st.booleans()):
        where = draw(placings("10.0.0.3"))
        source = Discovery(where.discover) if where.discover else None
        version = Version("checkout", "v3", where.endpoints, source)
        queued = Queued(version, draw(st.sampled_from(STRATEGIES)), "ann", NOON, draw(st.sampled_from(("", "no"))))
    return Standing("checkout", next(iter(versions)), versions, begun, in_progress, queued)
