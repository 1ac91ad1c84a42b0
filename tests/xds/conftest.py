"""Scenarios of the stream machines run twice: against a session in this process, and against one behind gRPC."""

from collections.abc import Iterator

import pytest

from tests.xds.client import TRANSPORT
from tests.xds.over_grpc import Ground

MODULES = {"test_sotw", "test_delta", "test_stream", "test_conformance", "test_conformance_grpc"}
CLIENTS = {"Wire", "client_of", "connected"}  # what makes a client there; a test that calls none drives no stream
ALSO = {
    "test_two_streams_of_one_node_have_a_state_each",
    "test_sessions_of_one_node_do_not_share_nonces_or_subscriptions",
    "test_newest_snapshot_wins",
}
# A second request, or a look at the session, before an answer is read: over the wire that is a race.
HERE_ONLY = {
    "test_first_answers_come_in_the_order_of_types",
    "test_one_message_is_an_ack_and_subscribes_and_unsubscribes",
    "test_returning_client_is_told_only_what_changed_and_what_is_gone",
    "test_version_of_an_earlier_stream_that_is_served_again_is_sent_once_and_holds_nothing_up_any_more",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    function = metafunc.function
    module = function.__module__.rpartition(".")[2]
    driven = module in MODULES and bool(CLIENTS & set(function.__code__.co_names))
    if (driven or function.__name__ in ALSO) and function.__name__ not in HERE_ONLY:
        metafunc.parametrize("transport", ["here", "grpc"], indirect=True)


@pytest.fixture(autouse=True)
def transport(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where a Wire's session is."""
    if getattr(request, "param", "here") == "here":
        yield
        return
    ground = Ground()
    before = TRANSPORT.set(ground.transport)
    try:
        yield
    finally:
        TRANSPORT.reset(before)
        ground.close()
