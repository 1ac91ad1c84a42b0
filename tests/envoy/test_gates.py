"""What the judge makes of good and of bad versions, on real Envoys: how long it takes, and what it costs."""

from dataclasses import replace
from pathlib import Path

import pytest

from rollout.demo.backend import Behaviour
from rollout.demo.processes import until
from rollout.demo.rehearsal import Rehearsal, Release, rehearsal

pytestmark = pytest.mark.envoy

USUAL = Behaviour(error_share=0.001, median_ms=20)
OUTAGE_ANSWERS = 1500  # bad ones of the candidate: 20 seconds at half of the traffic
FEW_STAGES = [{"weight": weight, "hold": "1s"} for weight in ("50%", "100%")]


def went_out(release: Release) -> None:
    assert release.outcome == "completed", release.reason
    assert release.tally.dropped == 0, release.tally.first_drops


def came_back(release: Release) -> None:
    assert release.outcome == "rolled_back", release.reason
    assert release.tally.dropped == 0, release.tally.first_drops


async def test_good_versions_go_out_and_bad_ones_come_back_in_seconds(tmp_path: Path) -> None:
    """The bounds leave room for a busy machine; `bench/releases.py` has the figures of a quiet one."""
    async with rehearsal(tmp_path, USUAL) as scene:
        await as_good_as_stable(scene)
        await all_answers_are_errors(scene)
        await one_answer_in_twenty_is_an_error(scene)
        await twice_as_slow(scene)
        await takes_requests_and_answers_none(scene)


async def as_good_as_stable(scene: Rehearsal) -> None:
    await scene.deploy()
    release = await scene.ended()
    went_out(release)
    assert release.seconds_until("retaining") <= 150  # half of that on a quiet machine
    assert max(release.seconds_by_weight()) == 100


async def all_answers_are_errors(scene: Rehearsal) -> None:
    await scene.deploy(replace(USUAL, error_share=1.0))
    release = await scene.ended()
    came_back(release)
    assert release.back_s - release.first_bad_s <= 6
    assert release.bad <= 60  # its 10 requests a second come by chance: 15 are usual


async def one_answer_in_twenty_is_an_error(scene: Rehearsal) -> None:
    await scene.deploy(replace(USUAL, error_share=0.05), strategy={"gate": {"warmup": "3s"}})
    release = await scene.ended()
    came_back(release)
    assert release.last_weight <= 10
    assert release.seconds_until("rolling_back") <= 90


async def twice_as_slow(scene: Rehearsal) -> None:
    await scene.deploy(replace(USUAL, median_ms=2 * USUAL.median_ms), strategy={"gate": {"warmup": "2s"}})
    release = await scene.ended()
    came_back(release)
    assert "took longer" in release.reason


async def takes_requests_and_answers_none(scene: Rehearsal) -> None:
    """Only its own requests are lost, some ten a second; health checks find nothing."""
    await scene.deploy(replace(USUAL, hang_after_s=0), strategy={"drain_timeout": "1s"})
    release = await scene.ended()
    assert (release.outcome, "hangs" in release.reason) == ("rolled_back", True), release.reason
    assert release.back_s - release.weighted_s <= 15
    assert release.bad == 0


async def test_what_is_not_the_candidates_fault_delays_it_only(tmp_path: Path) -> None:
    async with rehearsal(tmp_path, USUAL) as scene:
        await an_envoy_dies_and_then_both_versions_fail(scene)
        await one_bad_backend_of_three(scene)


async def an_envoy_dies_and_then_both_versions_fail(scene: Rehearsal) -> None:
    """Blind for a moment, which is no verdict; then errors that say nothing of the candidate, which is no verdict."""
    file, envoy = scene.world.folder / "outage", scene.world.envoys[1]
    depending = replace(USUAL, outage=str(file))
    await scene.behave(scene.stable, depending)
    await scene.deploy(depending, strategy={"stages": FEW_STAGES, "gate": {"margin": "3%", "warmup": "3s"}})
    await scene.until_weight(50)
    await scene.kill(envoy)
    await scene.until_verdict("blind", envoy.name, within_s=90)
    file.touch()
    await scene.revive(envoy)
    await until(lambda: scene.tally.bad[scene.spare] >= OUTAGE_ANSWERS, within_s=180, what="the outage to last")
    rollout = await scene.rollout()
    assert (rollout["phase"], rollout["weight_percent"]) == ("shifting", 50), rollout["reason"]
    file.unlink()
    release = await scene.ended()
    went_out(release)
    await scene.behave(scene.stable, USUAL)


async def one_bad_backend_of_three(scene: Rehearsal) -> None:
    """It is named and let go, and the others go on."""
    bad = scene.world.backends[scene.spare][1]
    gate = {"bad_host": "drain", "margin": "3%", "warmup": "1s"}
    await scene.deploy(hosts={1: replace(USUAL, error_share=0.5)}, strategy={"stages": FEW_STAGES, "gate": gate})
    release = await scene.ended()
    went_out(release)
    assert [reason for _, reason in release.verdicts if bad.address in reason]
    drains = (await scene.world.service())["drains"]
    assert [(each["backend"], each["removed"]) for each in drains] == [(bad.address, True)]
