"""Lists page by page: nothing is told twice or left out, whatever comes and goes between two pages."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.api.contract import Query
from rollout.api.paging import Page, cursor_of, cut, key_of
from rollout.api.queries import read
from rollout.demo.processes import until
from rollout.errors import InvalidSpec
from rollout.record import Operation, PutOperation, PutRollout, Rollout
from rollout.spec import Strategy
from rollout.state import ENDED, Phase, Role, State
from rollout.store.filters import OperationFilter, RolloutFilter
from rollout.store.rows import to_text
from rollout.store.sqlite import open_store
from tests.rollout.commandline import Script, scripted
from tests.rollout.commandline import rollout as call
from tests.rollout.served import running, settings_in

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAMES = ("ant", "bee", "cat", "dog", "eel")
KNOWN = (
    Query("limit", "", {"type": "integer", "minimum": 1, "maximum": 1000}),
    Query("nack", "", {"type": "boolean"}),
    Query("phase", "", {"enum": ["paused", "shifting"]}),
    Query("since", "", {"type": "string", "format": "date-time"}),
    Query("name", "", {"type": "string", "minLength": 1}),
)


def name_key(name: str) -> tuple[str]:
    return (name,)


def test_a_list_is_cut_into_pages_and_the_last_one_leads_nowhere() -> None:
    first = cut(NAMES, Page(2), name_key)
    assert (first.items, first.next is None) == (["ant", "bee"], False)
    assert first.next is not None
    second = cut(NAMES, Page(2, key_of(first.next, (str,))), name_key)
    assert second.next is not None
    third = cut(NAMES, Page(2, key_of(second.next, (str,))), name_key)
    assert (second.items, third.items, third.next) == (["cat", "dog"], ["eel"], None)
    assert cut(NAMES, Page(5), name_key).next is None


@given(st.sets(st.text(max_size=3)), st.sets(st.text(max_size=3)), st.integers(1, 4))
def test_what_stays_is_told_once_whatever_comes_and_goes(before: set[str], after: set[str], limit: int) -> None:
    first = cut(tuple(before), Page(limit), name_key)
    told = list(first.items)
    following = first.next
    while following is not None:
        page = cut(tuple(after), Page(limit, key_of(following, (str,))), name_key)
        told += page.items
        following = page.next
    assert len(told) == len(set(told))
    if first.next is not None:
        assert before & after <= set(told)


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "?",
        "é",
        "A" * 1001,
        "AAAA",
        encoded("cat"),
        encoded(["cat", 1]),
        encoded([1]),
        encoded([None]),
        encoded(["\ud800"]),
        encoded([[["x"]]]),
    ],
)
def test_a_cursor_of_another_list_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidSpec, match="cursor: is none of this list"):
        key_of(cursor, (str,))


@pytest.mark.parametrize("number", [2**63, -(2**70), float("inf"), float("nan"), True])
def test_a_cursor_has_no_numbers_that_the_store_could_not_take(number: float) -> None:
    with pytest.raises(InvalidSpec):
        key_of(encoded([number]), (type(number) if number is not True else int,))


@given(st.tuples(st.text(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False)))
def test_a_cursor_brings_its_key_back(key: tuple[str, int, float]) -> None:
    assert key_of(cursor_of(key), (str, int, float)) == key


def test_a_query_is_read_as_its_route_promises_it() -> None:
    given = {"limit": "7", "nack": "false", "phase": "paused", "since": "2026-03-01T13:00:00+01:00", "name": "a b"}
    assert read(KNOWN, given) == {"limit": 7, "nack": False, "phase": "paused", "since": AT, "name": "a b"}
    assert read(KNOWN, {"since": "2026-03-01T12:00:00"}) == {"since": AT}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"limti": "7"}, "limti: is no parameter here; there are limit, nack, phase, since, name"),
        ({"limit": "0"}, "limit: '0' is no whole number from 1 to 1000"),
        ({"limit": "1001"}, "from 1 to 1000"),
        ({"limit": "-1"}, "from 1 to 1000"),
        ({"limit": "1.0"}, "from 1 to 1000"),
        ({"limit": "٣"}, "from 1 to 1000"),
        ({"limit": "9" * 5000}, "limit: is longer than 4096 characters"),
        ({"limit": "9" * 50}, "from 1 to 1000"),
        ({"nack": "yes"}, "nack: 'yes' is neither true nor false"),
        ({"phase": "gone"}, "phase: 'gone' is none of paused, shifting"),
        ({"since": "yesterday"}, "since: 'yesterday' is no time"),
        ({"since": "0001-01-01T00:00:00+23:00"}, "out of reach"),
        ({"name": ""}, "name: is empty"),
        ({"name": "a\0b"}, "name: has characters that no name has"),
        ({"name": "\ud800"}, "name: has characters that no name has"),
    ],
)
def test_a_query_that_is_none_is_refused_with_its_name(given: Mapping[str, str], says: str) -> None:
    with pytest.raises(InvalidSpec, match=says.replace("(", "\\(")):
        read(KNOWN, given)


def operation(number: int, service: str = "checkout", verb: str = "undo", by: str = "ann") -> Operation:
    return Operation(AT + timedelta(seconds=number), service, verb, by, f"number {number}", "done")


async def test_operations_go_on_where_a_page_ended_though_others_came(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    try:
        await store.save([PutOperation(operation(number)) for number in range(1, 6)], engine_s=1.0)
        first = await store.operations(None, 2)
        await store.save([PutOperation(operation(6, "cart", "drain", "bob"))], engine_s=2.0)
        rest = await store.operations(None, 10, OperationFilter(before=first[-1].id))
        assert [each.detail for each in (*first, *rest)] == [f"number {number}" for number in (5, 4, 3, 2, 1)]
        for wanted in (OperationFilter(verb="drain"), OperationFilter(by="bob"), OperationFilter(services=("c[!h]*",))):
            assert await store.operations(None, 10, wanted) == (operation(6, "cart", "drain", "bob"),)
        assert await store.operations("checkout", 10, OperationFilter(verb="drain")) == ()
    finally:
        await store.close()


def rollout(number: int, service: str, phase: Phase, hour: int) -> Rollout:
    at = AT + timedelta(hours=hour)
    state = State(phase, 1.0, loser=Role.STABLE if phase in ENDED else None)
    return Rollout(service, number, "v1", "v2", Strategy(), state, 1, at, at)


async def test_rollouts_are_found_by_what_is_asked_for_and_go_on_where_a_page_ended(tmp_path: Path) -> None:
    first = rollout(1, "checkout", Phase.COMPLETED, 1)
    cart, users = rollout(1, "cart", Phase.ROLLED_BACK, 2), rollout(1, "users", Phase.COMPLETED, 2)
    set_back = rollout(2, "checkout", Phase.PENDING, 0)  # somebody has set the clock back
    store = await open_store(tmp_path)
    try:
        await store.save([PutRollout(each, None) for each in (first, cart, users, set_back)], engine_s=1.0)
        everything = (users, cart, first, set_back)
        assert await store.rollouts(None, 10) == everything
        for number in range(1, 4):
            last = everything[number - 1]
            before = (to_text(last.started_at), last.id, last.service)
            assert await store.rollouts(None, 10, RolloutFilter(before=before)) == everything[number:]
        assert await store.rollouts("checkout", 10) == (set_back, first)
        behind = RolloutFilter(before=(to_text(set_back.started_at), 2, "checkout"))
        assert await store.rollouts("checkout", 10, behind) == (first,)
        for wanted, expected in (
            (RolloutFilter(outcome="completed"), (users, first)),
            (RolloutFilter(outcome="rolled_back"), (cart,)),
            (RolloutFilter(outcome="in_progress"), (set_back,)),
            (RolloutFilter(since=AT + timedelta(hours=2)), (users, cart)),
            (RolloutFilter(services=("c*",)), (cart, first, set_back)),
        ):
            assert await store.rollouts(None, 10, wanted) == expected
    finally:
        await store.close()


def test_the_command_line_lists_all_pages_or_as_much_as_is_wanted() -> None:
    pages = [{"operations": [{"id": 2}], "next": "abc"}, {"operations": [{"id": 1}], "next": None}]
    with scripted(Script({"/v1/operations": pages})) as url:
        everything = call("log", "--json", server=url)
    assert json.loads(everything.stdout) == {"operations": [{"id": 2}, {"id": 1}], "next": None}
    script = Script({"/v1/operations": pages})
    with scripted(script) as url:
        first = call("log", "--json", "--limit", "1", server=url)
    assert json.loads(first.stdout) == pages[0]
    assert [path for _, path, _, _ in script.asked] == ["/v1/operations?limit=1"]


async def test_each_rollout_that_is_listed_can_be_explained(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    store = await open_store(settings.data)
    phases = {101: Phase.SHIFTING}  # with a hundred that have ended, all that are kept
    each = [rollout(number, "checkout", phases.get(number, Phase.COMPLETED), number) for number in range(1, 102)]
    await store.save([PutRollout(one, None) for one in each], engine_s=1.0)
    await store.close()
    async with running(settings) as server:
        async with server.http.get("/v1/services/checkout/rollouts?limit=1000") as answer:
            listed = [each["id"] for each in (await answer.json())["rollouts"]]
        assert len(listed) > 100
        for number in (listed[0], listed[-1]):
            async with server.http.get(f"/v1/services/checkout/rollouts/{number}") as answer:
                assert (answer.status, (await answer.json())["id"]) == (200, number)


async def test_lists_of_a_server_are_paged_and_narrowed_down(tmp_path: Path) -> None:
    async with running(settings_in(tmp_path)) as server:

        async def get(path: str) -> tuple[int, Any]:
            async with server.http.get(path) as answer:
                return answer.status, await answer.json(content_type=None)

        for version in ("v1", "v1", "v1"):
            async with server.http.post("/v1/services/checkout/adopt", json={"version": version}) as answer:
                assert answer.status == 200

        async def noted() -> bool:
            return len((await get("/v1/operations"))[1]["operations"]) == 3

        await until(noted, within_s=60, what="what was asked for to be noted")
        everything = (await get("/v1/operations"))[1]
        assert everything["next"] is None
        told, path = [], "/v1/operations?limit=1"
        while True:
            page = (await get(path))[1]
            told += page["operations"]
            if page["next"] is None:
                break
            path = f"/v1/operations?limit=1&cursor={page['next']}"
        assert told == everything["operations"]
        assert len({each["id"] for each in told}) == len(told)
        assert [each["service"] for each in (await get("/v1/services?name=check*"))[1]["services"]] == ["checkout"]
        assert (await get("/v1/services?in_progress=true"))[1] == {"services": [], "next": None}
        assert (await get("/v1/services?phase=shifting"))[1]["services"] == []
        gone = "/v1/fleet?connected=false&nack=true&location=eu&cluster=x"
        assert (await get(gone))[1] == {"nodes": [], "next": None}
        assert (await get("/v1/rollouts?outcome=completed&service=checkout&since=2026-01-01T00:00:00Z"))[1] == {
            "rollouts": [],
            "next": None,
        }
        status, problem = await get("/v1/rollouts?outcom=completed")
        assert (status, "outcom: is no parameter here; there are limit, cursor" in problem["detail"]) == (400, True)
        assert (await get(f"/v1/services?cursor={encoded([1])}"))[0] == 400
        assert (await get("/v1/services?limit=1&limit=2"))[0] == 400
