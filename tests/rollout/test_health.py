"""When a backend counts as healthy: by probes in a row, by most Envoys; and whether enough of them are."""

from dataclasses import replace

import pytest

from rollout.health import MARKED_LONGEST_S, MARKED_S, Opinion, Probed, Votes, polled, probed
from rollout.metrics import ClusterStats, Failure, Scrape
from rollout.probe import ProbeSpec
from rollout.readiness import Census, Hopeful, census, enough, healthy_through, unready, with_probes

SPEC = ProbeSpec(tcp=True, healthy=2, unhealthy=3)
STAT = "checkout@v2"
ONE, TWO = "10.0.0.1:80", "10.0.0.2:80"


def after(*whys: str, spec: ProbeSpec = SPEC) -> Probed:
    known = Probed()
    for second, why in enumerate(whys):
        known = probed(known, why, float(second), spec)
    return known


@pytest.mark.parametrize(
    ("whys", "healthy", "since_s"),
    [
        ((), None, 0.0),
        (("",), None, 0.0),
        (("", ""), True, 1.0),
        (("", "", ""), True, 1.0),
        (("no", "no"), None, 0.0),
        (("no", "no", "no"), False, 2.0),
        (("", "", "no", "no"), True, 1.0),
        (("", "", "no", "no", "", "no", "no"), True, 1.0),
        (("", "", "no", "no", "no"), False, 4.0),
        (("no", "no", "no", "", "no", ""), False, 2.0),
        (("no", "no", "no", "", ""), True, 4.0),
    ],
)
def test_so_many_answers_in_a_row_change_what_a_backend_is(
    whys: tuple[str, ...], healthy: bool | None, since_s: float
) -> None:
    known = after(*whys)
    assert (known.healthy, known.since_s) == (healthy, since_s)
    assert known.why == (whys[-1] if whys else "")


TRUSTED = Opinion(trusted=True)


def test_more_than_half_of_at_least_two_envoys_mark_a_backend_that_was_healthy_once() -> None:
    assert polled(TRUSTED, Votes(0, 1), 5.0) == TRUSTED
    assert polled(TRUSTED, Votes(1, 1), 5.0) == TRUSTED
    marked = polled(TRUSTED, Votes(1, 2), 5.0)
    assert (marked.marked_s, marked.votes) == (5.0, Votes(1, 2))
    assert polled(Opinion(), Votes(0, 9), 5.0) == Opinion()  # a new one, which nobody has checked yet
    assert polled(Opinion(), Votes(), 5.0) == Opinion()
    assert polled(Opinion(), Votes(3, 1), 5.0) == TRUSTED


def test_a_mark_of_envoys_is_lifted_to_look_again_each_time_later() -> None:
    opinion, now_s = TRUSTED, 0.0
    lasted: list[float] = []
    for _ in range(6):
        opinion = polled(opinion, Votes(0, 3), now_s)
        assert opinion.marked_s == now_s
        began_s = now_s
        while opinion.marked_s is not None:
            now_s += 1.0
            opinion = polled(opinion, Votes(0, 3), now_s)  # what they were told themselves
        lasted.append(now_s - began_s)
        now_s += 2.0
    assert lasted == [MARKED_S, 30.0, 60.0, MARKED_LONGEST_S, MARKED_LONGEST_S, MARKED_LONGEST_S]
    long_good_s = now_s + MARKED_LONGEST_S
    assert polled(opinion, Votes(0, 3), long_good_s).lasts_s == MARKED_S


@pytest.mark.parametrize(
    ("share", "backends", "needed"), [(1.0, 4, 4), (0.5, 4, 2), (0.5, 5, 3), (0.07, 100, 7), (0.01, 3, 1), (0.0, 3, 0)]
)
def test_a_share_of_backends_is_rounded_up(share: float, backends: int, needed: int) -> None:
    assert enough(share, backends) == needed


def hopeful(share: float = 1.0, *addresses: str) -> Hopeful:
    return Hopeful("v2", STAT, addresses or (ONE, TWO), share)


def scrape(healthy: int, total: int, started_s: float = 5.0) -> Scrape:
    return Scrape(started_s, started_s, {STAT: ClusterStats(membership_total=total, membership_healthy=healthy)})


def test_a_candidate_is_ready_when_its_share_of_backends_is_healthy_through_each_envoy() -> None:
    assert unready(hopeful(), {"a": 2, "b": 2}, None) == ()
    assert unready(hopeful(), {"a": 2, "b": 1}, None) == ("b: 1 of 2 backends healthy",)
    assert unready(hopeful(0.5), {"a": 1, "b": 1}, None) == ()
    assert unready(hopeful(0.5), {"a": 0}, None) == ("a: 0 of 2 backends healthy (1 needed)",)
    assert unready(hopeful(), {"a": "no stats yet"}, None) == ("a: no stats yet",)
    assert unready(Hopeful("v2", STAT, (), 1.0), {}, None) == ("v2 has no backends",)


def test_where_there_are_probes_they_must_find_it_healthy_too() -> None:
    good, bad = Probed(healthy=True), Probed(False, 1.0, "connection refused", 3)
    assert unready(hopeful(), {"a": 2}, {ONE: good, TWO: good}) == ()
    assert unready(hopeful(), {"a": 2}, {ONE: good, TWO: bad}) == (
        f"{TWO}: connection refused (probed by the control plane)",
    )
    assert unready(hopeful(0.5), {"a": 2}, {ONE: good, TWO: bad}) == ()
    assert len(unready(hopeful(), {"a": 2}, {})) == 2


def test_what_is_not_ready_is_told_in_short() -> None:
    told = unready(hopeful(), {f"envoy-{number:03}": 0 for number in range(500)}, None)
    assert (len(told), told[-1]) == (21, "480 more")


def test_what_an_envoy_cannot_tell_is_no_number() -> None:
    assert healthy_through(scrape(1, 2), None, STAT, 4.0) == 1
    assert healthy_through(scrape(1, 2), None, "other", 4.0) == 0
    assert healthy_through(scrape(1, 2), None, STAT, 6.0) == "no stats yet"
    assert healthy_through(None, None, STAT, 0.0) == "no stats yet"
    assert healthy_through(scrape(1, 2), Failure(1.0, "refused"), STAT, 0.0) == "refused"


def test_a_version_has_as_many_healthy_backends_as_half_of_the_envoys_find() -> None:
    assert census("v2", STAT, [scrape(4, 4), scrape(1, 4), scrape(0, 4)], 0) == Census("v2", 1, 4)
    assert census("v2", STAT, [scrape(4, 4), scrape(0, 4)], 0) == Census("v2", 0, 4)
    assert census("v2", STAT, [scrape(3, 4)], 1) == Census("v2", 3, 3)
    assert census("v2", STAT, [scrape(0, 0)], 0) is None
    assert census("v2", "other", [scrape(4, 4)], 0) is None


def test_probes_may_find_fewer_healthy_than_envoys_do() -> None:
    few = [Probed(healthy=True), Probed(healthy=False), Probed()]
    assert with_probes(Census("v2", 3, 3), "v2", few) == Census("v2", 2, 3)
    assert with_probes(Census("v2", 1, 3), "v2", few) == Census("v2", 1, 3)
    assert with_probes(None, "v2", few) == Census("v2", 2, 3)
    assert with_probes(None, "v2", []) is None


def test_too_few_healthy_backends_are_told_with_the_limit() -> None:
    few = Census("v2", 1, 4)
    assert few.below(0.5) == "v2: 1 of 4 backends healthy (min_healthy 50%)"
    assert few.below(0.25) == ""
    assert replace(few, healthy=2).below(0.5) == ""
