"""From scrapes to looks: what is counted, for which weight, and what is not."""

import pytest

from rollout.gate import Counts, Look, Stratum
from rollout.looks import Looks, total
from rollout.metrics import ClusterStats, Scrape

STABLE, CANDIDATE = "checkout@v1", "checkout@v2"


def scrape(at_s: float, stable: int, candidate: int, errors: int = 0) -> Scrape:
    clusters = {STABLE: ClusterStats(completed=stable), CANDIDATE: ClusterStats(completed=candidate, errors_5xx=errors)}
    return Scrape(at_s, at_s + 0.01, clusters)


def stratum(weight_bp: int, stable: int, candidate: int, errors: int = 0) -> Stratum:
    return Stratum(weight_bp, Counts(requests=stable), Counts(requests=candidate, errors=errors))


@pytest.fixture
def looks() -> Looks:
    """A rollout with one Envoy that has 10 %, and was read once since."""
    looks = Looks(STABLE, CANDIDATE)
    looks.acked(["a"], 1000, 0.0)
    looks.add("a", scrape(1.0, 100, 10))
    return looks


def test_increments_between_two_scrapes_are_counted(looks: Looks) -> None:
    looks.add("a", scrape(2.0, 190, 20, errors=1))
    looks.add("a", scrape(3.0, 280, 30, errors=2))
    assert looks.take(["a"], {}) == Look((stratum(1000, 180, 20, errors=2),))


def test_the_first_scrape_is_only_what_the_next_counts_from(looks: Looks) -> None:
    assert looks.take(["a"], {}) == Look(())


def test_what_was_taken_is_forgotten_but_not_what_to_count_from(looks: Looks) -> None:
    looks.add("a", scrape(2.0, 190, 20))
    assert looks.take(["a"], {}) == Look((stratum(1000, 90, 10),))
    assert looks.take(["a"], {}) == Look(())
    looks.add("a", scrape(3.0, 191, 21))
    assert looks.take(["a"], {}) == Look((stratum(1000, 1, 1),))


def test_the_same_scrape_counts_once(looks: Looks) -> None:
    later = scrape(2.0, 190, 20)
    looks.add("a", later)
    looks.add("a", later)
    assert looks.take(["a"], {}) == Look((stratum(1000, 90, 10),))


def test_the_same_ack_twice_changes_nothing(looks: Looks) -> None:
    looks.acked(["a"], 1000, 1.5)
    looks.add("a", scrape(2.0, 190, 20))
    assert looks.take(["a"], {}) == Look((stratum(1000, 90, 10),))


def test_a_span_in_which_the_weight_changed_counts_for_nothing(looks: Looks) -> None:
    looks.add("a", scrape(2.0, 190, 20))
    looks.acked(["a"], 5000, 2.5)
    looks.add("a", scrape(2.4, 999, 999))  # asked for before the ACK
    looks.add("a", scrape(2.55, 999, 999))  # Envoy's workers may not know yet
    looks.add("a", scrape(3.0, 240, 60))
    looks.add("a", scrape(4.0, 290, 110))
    assert looks.take(["a"], {}) == Look((stratum(1000, 90, 10), stratum(5000, 50, 50)))


def test_envoys_that_have_acked_other_weights_are_other_strata(looks: Looks) -> None:
    looks.acked(["b", "c"], 5000, 0.0)
    for node in ("b", "c"):
        looks.add(node, scrape(1.0, 0, 0))
        looks.add(node, scrape(2.0, 7, 8))
    looks.add("a", scrape(2.0, 190, 20))
    assert looks.take("abc", {}) == Look((stratum(1000, 90, 10), stratum(5000, 14, 16)))


def test_an_envoy_that_has_acked_nothing_is_not_counted(looks: Looks) -> None:
    looks.add("z", scrape(1.0, 0, 0))
    looks.add("z", scrape(2.0, 50, 50))
    assert looks.take(["a", "z"], {}) == Look(())


def test_counters_that_began_anew_are_blind_for_one_look(looks: Looks) -> None:
    looks.add("a", scrape(2.0, 3, 1))
    assert looks.take(["a"], {}) == Look((), ("a: its counters began anew",))
    looks.add("a", scrape(3.0, 13, 2))
    assert looks.take(["a"], {}) == Look((stratum(1000, 10, 1),))


def test_a_cluster_that_was_not_asked_for_is_no_base_to_count_from(looks: Looks) -> None:
    looks.add("a", Scrape(2.0, 2.0, {STABLE: ClusterStats(completed=500)}))
    looks.add("a", scrape(3.0, 500, 20))
    looks.add("a", scrape(4.0, 510, 21))
    assert looks.take(["a"], {}) == Look((stratum(1000, 10, 1),), ("a: its counters began anew",))


def test_an_envoy_that_comes_back_is_counted_from_its_next_scrape_on(looks: Looks) -> None:
    looks.add("a", scrape(2.0, 190, 20))
    assert looks.take([], {}) == Look((stratum(1000, 90, 10),))
    looks.acked(["a"], 1000, 5.0)
    looks.add("a", scrape(6.0, 400, 40))
    looks.add("a", scrape(7.0, 401, 41))
    assert looks.take(["a"], {}) == Look((stratum(1000, 1, 1),))


def test_blind_envoys_are_named_with_why(looks: Looks) -> None:
    looks.add("a", scrape(2.0, 0, 0))
    blind = {"b": "no answer from 127.0.0.1:9901", "a": "no stats"}
    assert looks.take("ab", blind) == Look((), ("a: no stats", "b: no answer from 127.0.0.1:9901"))


def test_a_total_is_over_all_weights() -> None:
    look = Look((stratum(1000, 90, 10, errors=1), stratum(5000, 5, 5)))
    assert total(look) == (Counts(requests=95), Counts(requests=15, errors=1))
    assert total(Look(())) == (Counts(), Counts())
