"""The steps of a plan: what is done to have a service as its document says, from wherever it stands."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings

from rollout.declared.documents import Written, parse
from rollout.declared.planning import plan
from rollout.declared.steps import Action, Placed, Situation, Standing, Wishes, step_view
from rollout.declared.text import text_of
from rollout.declared.writing import as_written, documents, with_secrets
from rollout.record import NamedStrategy, Origin
from rollout.screen.plans import plan_text
from rollout.spec import Strategy, parse_endpoint
from rollout.state import Phase, Role
from tests.rollout.standings import (
    NAMED,
    NOON,
    QUICK,
    SECRETIVE,
    parsed,
    past,
    placed,
    planned,
    rollout,
    service,
    standings,
)

ONE, TWO = "10.0.0.1:80", "10.0.0.2:80"
IDLE = Standing(
    "checkout", "v1", {"v1": placed(ONE)}, rollout("v1", stable="v0", phase=Phase.COMPLETED, loser=Role.STABLE)
)


def standing(*versions: str, **changes: Any) -> Standing:
    """A service with a rollout of v1 to v2 in progress, or ended."""
    where = {name: placed(f"10.0.0.{name[1:]}:80") for name in versions}
    begun = rollout(**changes)
    return Standing("checkout", versions[0], where, begun, len(versions) > 1)


ROLLED_BACK: Mapping[str, Any] = {"phase": Phase.ROLLED_BACK, "loser": Role.CANDIDATE}
BACK = Standing("checkout", "v1", {"v1": placed(ONE)}, rollout(**ROLLED_BACK), past={"v2": past("v2", TWO)})


def pruned(now: Standing, *strategies: NamedStrategy, **document: Any) -> list[str]:
    situation = Situation({each.name: each for each in strategies}, {"checkout": now})
    steps, problems = plan(parsed(service("v1", ONE, **document)), situation, Wishes(prune=True))
    assert problems == ()
    return [step.name for step in steps if step.action is Action.REMOVE]


def test_strategies_go_that_no_document_names_and_nothing_in_progress_goes_by() -> None:
    other = NamedStrategy("other", '{"stages": ["7%", "100%"]}', "ann", NOON)
    assert pruned(IDLE, NAMED, other) == ["quick", "other"]
    assert pruned(IDLE, NAMED, other, strategy="other") == ["quick"]
    assert pruned(standing("v1", "v2"), NAMED, other) == ["other"]


def test_a_strategy_with_headers_may_be_inline_when_others_are_removed() -> None:
    hook = {"at": "event", "url": "http://a.example.com", "headers": {"x": "1"}}
    assert pruned(IDLE, NAMED, strategy={"stages": ["100%"], "hooks": [hook]}) == ["quick"]


def test_a_strategy_that_this_release_takes_no_more_may_be_removed() -> None:
    old = NamedStrategy("old", '{"stages": ["100%"], "gone": 1}', "ann", NOON)
    assert pruned(standing("v1", "v2"), old) == ["old"]


@pytest.mark.parametrize(
    ("now", "document", "wishes", "action"),
    [
        (IDLE, service("v1", ONE), {}, Action.NONE),
        (IDLE, service("v1"), {}, Action.NONE),
        (IDLE, service("v1", ONE, "10.0.0.9:80"), {}, Action.BACKENDS),
        (IDLE, service("v1", f"{ONE}@eu/eu-1"), {}, Action.BACKENDS),
        (IDLE, service("v2", TWO), {}, Action.ROLLOUT),
        (IDLE, service("v2", discover="dns:checkout.internal:80"), {}, Action.ROLLOUT),
        (standing("v1", "v2"), service("v2", TWO, strategy="quick"), {}, Action.NONE),
        (standing("v1", "v2"), service("v2", TWO), {}, Action.NONE),
        (standing("v1", "v2"), service("v2", TWO), {"supersede": True}, Action.SUPERSEDE),
        (standing("v1", "v2"), service("v2", TWO, "10.0.0.9:80"), {}, Action.BACKENDS),
        (standing("v1", "v2"), service("v1", ONE), {}, Action.WAITS),
        (standing("v1", "v2"), service("v1", ONE), {"supersede": True}, Action.SUPERSEDE),
        (standing("v1", "v2"), service("v3", "10.0.0.3:80"), {}, Action.WAITS),
        (standing("v1", "v2", phase=Phase.ROLLING_BACK, loser=Role.CANDIDATE), service("v1", ONE), {}, Action.NONE),
        (
            standing("v1", "v2", phase=Phase.ROLLING_BACK, loser=Role.CANDIDATE),
            service("v2", TWO, strategy="quick"),
            {},
            Action.HELD,
        ),
        (standing("v2", "v1", origin=Origin.UNDO, stable="v2", candidate="v1"), service("v2", TWO), {}, Action.HELD),
        (BACK, service("v2", TWO, strategy="quick"), {}, Action.HELD),
        (BACK, service("v2", TWO, strategy="quick"), {"retry": True}, Action.ROLLOUT),
        (BACK, service("v2", TWO), {}, Action.ROLLOUT),  # by another strategy
        (BACK, service("v2", "10.0.0.9:80", strategy="quick"), {}, Action.ROLLOUT),  # on another backend
        (BACK, service("v1", ONE), {}, Action.NONE),
    ],
)
def test_what_is_done_follows_from_where_a_service_stands(
    now: Standing, document: Mapping[str, Any], wishes: dict[str, bool], action: Action
) -> None:
    (step,) = planned(now, document, **wishes)
    assert step.action is action, step.words


def test_a_version_that_was_rolled_back_before_others_is_held_too() -> None:
    now = Standing("checkout", "v3", {"v3": placed(ONE)}, rollout("v3", phase=Phase.COMPLETED, loser=Role.STABLE))
    tried = Standing(**{**{name: getattr(now, name) for name in now.__slots__}, "past": {"v2": past("v2", TWO)}})
    (held,) = planned(tried, service("v2", TWO, strategy="quick"))
    assert (held.action, "was rolled back" in held.words) == (Action.HELD, True)
    served = {"v2": past("v2", TWO, served=True)}  # it had the traffic once: to go back to it is a rollout as others
    kept = Standing(**{**{name: getattr(now, name) for name in now.__slots__}, "past": served})
    assert planned(kept, service("v2", TWO, strategy="quick"))[0].action is Action.ROLLOUT


def test_backends_that_the_gate_took_out_do_not_make_a_version_another_one() -> None:
    back = rollout(**ROLLED_BACK)
    object.__setattr__(back.state, "let_go", "10.0.0.3:80")
    now = Standing("checkout", "v1", {"v1": placed(ONE)}, back, past={"v2": past("v2", TWO)})
    (step,) = planned(now, service("v2", TWO, "10.0.0.3:80", strategy="quick"))
    assert step.action is Action.HELD


def test_what_leaves_a_version_already_is_not_let_go_again() -> None:
    leaving = Placed(tuple(map(parse_endpoint, (ONE, TWO))), frozenset({TWO}))
    now = Standing("checkout", "v1", {"v1": leaving}, IDLE.rollout)
    assert planned(now, service("v1", ONE))[0].action is Action.NONE
    assert planned(now, service("v1", ONE, TWO))[0].action is Action.BACKENDS


def test_the_first_version_gets_its_name() -> None:
    fresh = Standing("checkout", "initial", {"initial": Placed((parse_endpoint(f"{ONE}@eu/eu-1"),), from_files=True)})
    assert [each.action for each in planned(fresh, service("v1"))] == [Action.ADOPT]
    assert [each.action for each in planned(fresh, service("v1", f"{ONE}@eu/eu-1"))] == [Action.ADOPT]
    assert [each.action for each in planned(fresh, service("v1", ONE))] == [Action.ADOPT]  # where it is, nobody says
    assert [each.action for each in planned(fresh, service("v1", f"{ONE}@us"))] == [Action.ADOPT, Action.BACKENDS]
    assert [each.action for each in planned(fresh, service("v1", TWO))] == [Action.ROLLOUT]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (service("v2"), "endpoints: is missing"),
        (service("v2", ONE), "belongs to 'v1'"),
        (service("v2", TWO, strategy="slow"), "there is no strategy 'slow'; there are quick"),
        ({**service("v2", TWO), "name": "cart"}, "there is no service 'cart'; there are checkout"),
    ],
)
def test_what_can_never_be_is_a_problem(document: Mapping[str, Any], says: str) -> None:
    steps, problems = plan(parsed(document), Situation({"quick": NAMED}, {"checkout": IDLE}), Wishes())
    assert steps == ()
    assert says in str(problems[0])


def test_a_strategy_of_the_documents_comes_before_the_one_that_is_saved() -> None:
    slow = {"kind": "strategy", "name": "quick", "stages": ["1%", "100%"]}
    change, move = planned(IDLE, slow, service("v2", TWO, strategy="quick"))
    assert (change.action, move.action) == (Action.CHANGE, Action.ROLLOUT)
    assert change.lines == ("- - 50%", "+ - 1%")
    assert "1, 100 %" in move.words


def test_strategies_that_nothing_names_go_when_asked() -> None:
    used = Standing("checkout", "v1", {"v1": placed(ONE), "v2": placed(TWO)}, rollout(strategy=QUICK), in_progress=True)
    assert planned(used, prune=True) == ()
    assert [each.action for each in planned(IDLE, prune=True)] == [Action.REMOVE]
    assert planned(IDLE, service("v1", strategy="quick"), prune=True)[0].action is Action.NONE
    assert planned(IDLE) == ()


@given(standings())
@settings(max_examples=150, deadline=None)
def test_what_is_exported_is_what_is(now: Standing) -> None:
    situation = Situation({each.name: each for each in (NAMED, SECRETIVE)}, {"checkout": now})
    exported = tuple(documents(situation, ("checkout",)))
    assert "SECRET" not in text_of(exported)
    again = [Written("", number, with_secrets(each, situation)) for number, each in enumerate(exported, start=1)]
    found, problems = parse(again)
    assert problems == ()
    steps, wrong = plan(found, situation, Wishes())
    assert wrong == ()
    assert {step.action for step in steps} == {Action.NONE}, [step.words for step in steps]


def test_an_exported_strategy_names_only_the_gates_that_are_set() -> None:
    given = {"stages": ["5%", "100%"], "gate": {"margin": "3%", "warmup": "20s"}}
    assert as_written(Strategy.model_validate(given)) == {
        "stages": [{"weight": "5%"}, {"weight": "100%"}],
        "gate": {"margin": 0.03, "warmup": "20.000000s"},
    }


def test_lines_that_change_are_set_in_as_in_the_file() -> None:
    gate = {"kind": "strategy", "name": "new", "stages": ["100%"], "gate": {"margin": "3%"}}
    (step,) = planned(IDLE, gate)
    shown = plan_text({"steps": [step_view(step)], "changes": 1, "warnings": [], "fingerprint": "f"}).plain
    assert "    + gate:\n    +   margin: 3%\n" in shown
