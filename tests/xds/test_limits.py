"""Who may start a stream, how fast requests may come, and how many names a subscription may have."""

import pytest

from xds.errors import Overloaded
from xds.limits import ORIGINS, Admission, Limits, Rate, TokenBucket
from xds.node import Peer

ANYONE = Peer("ipv4:10.0.0.1:1")
RATE = Rate(per_s=2, burst=3)


def known(*identities: str) -> Peer:
    return Peer("ipv4:10.0.0.1:1", frozenset(identities))


def entered(admission: Admission, limits: Limits, peer: Peer, now_s: float) -> bool:
    try:
        admission.enter(limits, peer, now_s)
    except Overloaded:
        return False
    return True


def test_bucket_lets_a_burst_pass_and_then_its_rate() -> None:
    bucket = TokenBucket()
    assert [bucket.try_take(RATE, 100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.try_take(RATE, now_s) for now_s in (100.4, 100.5, 100.6, 101.0)] == [False, True, False, True]


def test_bucket_is_full_again_after_a_rest_and_never_fuller() -> None:
    bucket = TokenBucket()
    for _ in range(3):
        bucket.take(RATE, 0.0)
    assert [bucket.try_take(RATE, 1_000_000.0) for _ in range(4)] == [True, True, True, False]


def test_who_must_pass_is_told_how_long_to_wait() -> None:
    bucket = TokenBucket()
    assert [bucket.take(RATE, 7.0) for _ in range(5)] == [0, 0, 0, 0.5, 1.0]
    assert bucket.take(RATE, 8.0) == 0.5


def test_what_counts_for_several_uses_the_rate_of_several() -> None:
    bucket = TokenBucket()
    assert [bucket.take(RATE, 7.0, 3), bucket.take(RATE, 7.0, 2)] == [0, 1.0]


def test_streams_start_at_a_limited_rate_and_the_refused_cost_the_others_nothing() -> None:
    admission, limits = Admission(), Limits(new_streams=RATE)
    assert [entered(admission, limits, ANYONE, 0.0) for _ in range(100)].count(True) == 3
    assert entered(admission, limits, ANYONE, 0.5)
    assert admission.streams == 4
    with pytest.raises(Overloaded, match="more than 2 streams a second want to start"):
        admission.enter(limits, ANYONE, 0.5)


def test_server_takes_so_many_streams_and_another_one_when_one_has_left() -> None:
    admission, limits = Admission(), Limits(streams=2)
    assert [entered(admission, limits, ANYONE, 0.0) for _ in range(3)] == [True, True, False]
    admission.leave(ANYONE)
    assert entered(admission, limits, ANYONE, 0.0)
    with pytest.raises(Overloaded, match="the 2 streams"):
        admission.enter(limits, ANYONE, 0.0)


def test_one_identity_cannot_take_the_places_of_the_others() -> None:
    admission, limits = Admission(), Limits(streams_per_identity=2)
    greedy, modest = known("spiffe://mesh/greedy"), known("spiffe://mesh/modest")
    assert [entered(admission, limits, greedy, 0.0) for _ in range(3)] == [True, True, False]
    assert entered(admission, limits, modest, 0.0)
    assert [entered(admission, limits, ANYONE, 0.0) for _ in range(3)] == [True, True, True]
    with pytest.raises(Overloaded, match="spiffe://mesh/greedy has 2 streams"):
        admission.enter(limits, greedy, 0.0)
    admission.leave(greedy)
    assert entered(admission, limits, greedy, 0.0)


def test_refused_streams_use_nothing_of_the_rate() -> None:
    admission, limits = Admission(), Limits(streams=1, new_streams=RATE)
    assert [entered(admission, limits, ANYONE, 0.0) for _ in range(50)].count(True) == 1
    admission.leave(ANYONE)
    assert entered(admission, limits, ANYONE, 0.0)


def test_identities_that_have_left_are_forgotten() -> None:
    admission, limits = Admission(), Limits(new_streams=Rate(1, 10_000))
    for number in range(1_000):
        peer = known(f"edge-{number}.mesh")
        admission.enter(limits, peer, 0.0)
        admission.leave(peer)
    assert admission.streams == 0
    assert not admission._by_identity


def test_subscription_may_name_so_many_resources() -> None:
    limits = Limits(names=2)
    limits.check_names(2)
    with pytest.raises(Overloaded, match="names 3 resources; at most 2 are accepted"):
        limits.check_names(3)


def test_one_who_starts_too_many_streams_leaves_room_for_others() -> None:
    admission, limits = Admission(), Limits(new_streams=Rate(10, 20), new_streams_of_one=Rate(5, 10))
    greedy, modest = Peer("ipv4:10.0.0.1:1"), Peer("ipv4:10.0.0.2:1")
    assert [entered(admission, limits, Peer(f"ipv4:10.0.0.1:{port}"), 0.0) for port in range(50)].count(True) == 10
    assert [entered(admission, limits, modest, 0.0) for _ in range(5)] == [True] * 5
    with pytest.raises(Overloaded, match="you start more than 5 streams a second"):
        admission.enter(limits, greedy, 0.0)
    assert greedy.origin == "ipv4:10.0.0.1"
    assert Peer("ipv4:10.0.0.1:1", frozenset({"spiffe://corp/edge"})).origin == {"spiffe://corp/edge"}


def test_origins_that_are_remembered_are_bounded() -> None:
    admission, limits = Admission(), Limits(new_streams=Rate(1e9, 10**9))
    for number in range(ORIGINS + 10):
        admission.enter(limits, Peer(f"ipv6:[::{number:x}]:1"), 0.0)
    assert len(admission._new_of_one) == ORIGINS
