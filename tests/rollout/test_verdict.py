"""Verdicts as JSON."""

import json
from typing import assert_never

import pytest

from rollout.gate import Blind, Fail, Inconclusive, Pass, Verdict, verdict_from_json, verdict_to_json


@pytest.mark.parametrize(
    "verdict",
    [
        Pass("a"),
        Fail("b", {"ln_e": 7.5}),
        Fail("b", host="10.0.0.7:80"),
        Pass("e", notes=("slow",)),
        Inconclusive("c"),
        Blind("d", {"x": 1}),
    ],
)
def test_verdicts_survive_json(verdict: Verdict) -> None:
    assert verdict_from_json(json.loads(json.dumps(verdict_to_json(verdict)))) == verdict
    assert described(verdict) == verdict.name


def described(verdict: Verdict) -> str:
    match verdict:
        case Pass():
            return "pass"
        case Fail():
            return "fail"
        case Inconclusive():
            return "inconclusive"
        case Blind():
            return "blind"
        case _:
            assert_never(verdict)


def test_a_fail_that_was_saved_without_a_host_has_none() -> None:
    assert verdict_from_json({"verdict": "fail", "reason": "b", "numbers": {}}) == Fail("b")


def test_an_unknown_verdict_is_an_error() -> None:
    with pytest.raises(ValueError, match="perhaps"):
        verdict_from_json({"verdict": "perhaps", "reason": "", "numbers": {}})
