"""A version that follows a source: who comes, who goes, when nothing is believed, and over a restart of the server."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from rich.console import Console

from rollout.api.discoveries import discovery_view
from rollout.api.paging import Paged
from rollout.api.views import versions_view
from rollout.discovering import Around, Discovering, Report, Status
from rollout.discovery.answer import Answer
from rollout.discovery.decide import located, plan
from rollout.discovery.source import Discover, parse_discover
from rollout.discovery.telling import Telling
from rollout.errors import InvalidSpec, Rehearsed, RolloutError, Unavailable, Unknown
from rollout.ledger import Ledger
from rollout.screen.discoveries import discoveries_table
from rollout.screen.records import versions_table
from rollout.spec import Endpoint, parse_endpoint
from rollout.state import Command, Phase
from tests.rollout.commandline import rollout
from tests.rollout.operating import ANN, Engine, deployment, files, running
from tests.rollout.waiting import LIMIT_S

ONE, TWO, THREE, FOUR = (f"10.0.0.{number}:80" for number in range(1, 5))
SHOP = files(checkout={"eu/eu-1": (ONE, TWO), "us/us-1": (THREE,)})
CLUSTER = "checkout@initial"
REHEARSING = replace(ANN, rehearses=True)
WORDS = {"dns": {"name": "checkout.internal", "port": 80}, "every": "200ms"}
SOURCE = parse_discover(WORDS)


def endpoints(*texts: str) -> tuple[Endpoint, ...]:
    return tuple(parse_endpoint(text) for text in texts)


HERE = (f"{ONE}@eu/eu-1", f"{TWO}@eu/eu-1", f"{THREE}@us/us-1")
EVERY = endpoints(*HERE)


@dataclass
class Oracle:
    """A source whose answers a test sets: endpoints, or what is wrong; `in_turn` several, one after the other.

    `looks` counts how often it was asked.
    """

    says: tuple[Endpoint, ...] | Exception = EVERY
    in_turn: tuple[tuple[Endpoint, ...], ...] = ()
    looks: int = 0
    told: list[Report] = field(default_factory=list)

    async def ask(self, _discover: Discover, _before: Answer | None) -> Answer:
        self.looks += 1
        if self.in_turn:
            return Answer(self.in_turn[self.looks % len(self.in_turn)])
        if isinstance(self.says, Exception):
            raise self.says
        return Answer(self.says)


@dataclass
class Shop:
    """An engine with what follows a source in it."""

    engine: Engine
    oracle: Oracle
    discovering: Discovering

    async def until(self, condition: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(LIMIT_S):
                while not condition():
                    await self.engine.step()
                    await asyncio.sleep(0.001)
        except TimeoutError as error:
            stood = [(each.status, each.fault) for each in self.discovering.reports()]
            raise AssertionError(stood) from error

    async def looks(self, number: int) -> None:
        """Wait until the source was asked so often more, and what followed is done."""
        wanted = self.oracle.looks + number + 1
        await self.until(lambda: self.oracle.looks >= wanted)

    def health(self) -> Mapping[str, str]:
        return self.engine.health(CLUSTER)

    def report(self, version: str = "initial") -> Report:
        return self.discovering.report("checkout", version)

    async def operations(self) -> list[tuple[str, str, str]]:
        return await self.engine.log()


@contextlib.asynccontextmanager
async def following(engine: Engine, oracle: Oracle) -> AsyncIterator[Shop]:
    def check(discover: Discover) -> None:
        if discover.variables:
            raise InvalidSpec("consul.token_env: the server's environment has no such variable")

    around = Around(check, oracle.ask, lambda: engine.now_s, engine.wall, lambda _: 0.002, oracle.told.append)
    ledger = Ledger(engine.controller.saver, engine.wall, engine.told.append)
    discovering = Discovering(engine.controller, engine.backends, ledger, around, tick_s=0.005)
    task = asyncio.get_running_loop().create_task(discovering.run())
    try:
        yield Shop(engine, oracle, discovering)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def shop(folder: Path, discover: Discover = SOURCE) -> AsyncIterator[Shop]:
    """Yield a shop whose version `initial` follows a source that says just what is there."""
    async with running(folder, SHOP) as engine, following(engine, Oracle()) as found:
        engine.connect()
        await engine.step()
        await found.discovering.set("checkout", "initial", discover, ANN)
        await found.until(lambda: found.report().status is Status.FRESH)
        yield found


async def test_who_is_new_comes_at_once_and_who_is_missing_twice_is_drained(tmp_path: Path) -> None:
    async with shop(tmp_path) as found:
        found.oracle.says = endpoints(*HERE[:2], f"{FOUR}@eu/eu-2")
        await found.until(lambda: FOUR in found.health())
        await found.until(lambda: found.health().get(THREE) == "DRAINING")
        await found.until(lambda: THREE not in found.health())
        assert set(found.health()) == {ONE, TWO, FOUR}
        verbs = [(verb, by) for verb, by, _ in await found.operations()]
        assert verbs == [("discovery set", "ann"), *([("scale", "discovery dns checkout.internal")] * 2)]
        await found.looks(5)
        assert len(await found.operations()) == 3  # what does not change is not noted
        assert found.report().missing == {}


async def test_a_list_of_versions_says_who_finds_their_backends(tmp_path: Path) -> None:
    async with shop(tmp_path) as found:
        view = versions_view(found.engine.controller, "checkout", found.engine.now_s, Paged((), None))
        (version,) = view["versions"]
        assert version["discovery"] == "dns checkout.internal"
        shown = io.StringIO()
        Console(width=200, file=shown).print(versions_table(view))
        assert "stable, found by dns checkout.internal" in shown.getvalue()
        await found.discovering.remove("checkout", "initial", ANN)
        (version,) = versions_view(found.engine.controller, "checkout", 0.0, Paged((), None))["versions"]
        assert version["discovery"] is None


async def test_a_source_that_comes_and_goes_is_no_storm_of_events(tmp_path: Path) -> None:
    async with shop(tmp_path) as found:
        for number in range(20):
            found.oracle.says = Unavailable(f"no answer {number}") if number % 2 else EVERY
            await found.looks(1)
        assert 2 <= len(found.oracle.told) <= 6
        found.oracle.says = EVERY
        found.engine.now_s += 3_600
        await found.until(lambda: found.oracle.told[-1].status is Status.FRESH)


def test_reasons_that_differ_at_each_look_are_told_seldom() -> None:
    telling, hour_s = Telling(), 3_600
    told = [second for second in range(hour_s) if telling.is_due(f"it leaves out {second}", float(second))]
    assert told == [0, 1, 2, 3]
    assert telling.is_due("", float(hour_s))
    assert not telling.is_due("", float(hour_s + 1))


async def test_a_source_that_flaps_drains_nobody(tmp_path: Path) -> None:
    async with shop(tmp_path) as found:
        found.oracle.in_turn = (endpoints(*HERE[:2]), EVERY)
        await found.looks(20)
        assert found.report().status is Status.FRESH
        assert set(found.health().values()) == {"HEALTHY"}
        assert [verb for verb, _, _ in await found.operations()] == ["discovery set"]


async def test_a_backend_that_comes_back_while_it_drains_is_taken_back(tmp_path: Path) -> None:
    async with shop(tmp_path) as found:
        found.oracle.says = endpoints(*HERE[:2])
        await found.until(lambda: found.health().get(THREE) == "DRAINING")
        found.oracle.says = endpoints(*HERE)
        await found.until(lambda: found.health().get(THREE) == "HEALTHY")
        assert set(found.health()) == {ONE, TWO, THREE}
        assert found.engine.controller.books.backends("checkout") == ()


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (Unavailable("checkout.internal does not exist (NXDOMAIN)"), "NXDOMAIN"),
        (InvalidSpec("it is no JSON"), "it is no JSON"),
        (RuntimeError("surprise"), "a bug of the server: RuntimeError"),
        ((), "it names no backend; nothing was changed"),
        (endpoints(HERE[0]), "it leaves out 2 of 3 backends at once"),
    ],
)
async def test_what_cannot_be_believed_changes_nothing_and_is_told(
    tmp_path: Path, says: tuple[Endpoint, ...] | Exception, words: str
) -> None:
    async with shop(tmp_path) as found:
        before = found.health()
        found.oracle.says = says
        await found.until(lambda: found.report().status is Status.STALE)
        await found.looks(5)
        assert words in found.report().fault
        assert found.health() == before
        assert [words in each.fault for each in found.oracle.told] == [True]  # told once
        assert [verb for verb, _, _ in await found.operations()] == ["discovery set"]
        found.oracle.says = endpoints(*HERE)
        await found.until(lambda: found.report().status is Status.FRESH)
        assert [each.status for each in found.oracle.told] == [Status.STALE, Status.FRESH]


async def test_the_last_healthy_one_is_kept_until_others_are_healthy(tmp_path: Path) -> None:
    async with shop(tmp_path) as found:
        found.engine.ill = {TWO, THREE, FOUR}
        found.oracle.says = endpoints(*HERE[1:], FOUR)
        await found.until(lambda: FOUR in found.health())
        await found.until(lambda: "last healthy" in found.report().fault)
        await found.looks(5)
        assert found.health()[ONE] == "HEALTHY"
        assert "Conflict" not in str(await found.operations())  # nor do refusals fill the records
        found.engine.ill = set()
        await found.until(lambda: ONE not in found.health())
        assert found.report().status is Status.FRESH


async def test_nothing_is_done_while_the_service_is_changed(tmp_path: Path) -> None:
    async with shop(tmp_path) as found:
        with found.engine.controller.alone("checkout"):
            found.oracle.says = endpoints(*HERE, FOUR)
            await found.looks(5)
            assert (FOUR in found.health(), found.report().status) == (False, Status.FRESH)
        await found.until(lambda: FOUR in found.health())


async def test_an_operators_drain_stands_and_what_was_removed_by_hand_comes_back(tmp_path: Path) -> None:
    async with shop(tmp_path) as found:
        await found.engine.backends.drain("checkout", THREE, ANN)
        await found.looks(3)
        assert found.health().get(THREE) in ("DRAINING", None)
        assert [each.address for each in found.engine.controller.books.backends("checkout")] == [THREE]


async def test_a_restart_goes_on_where_the_books_and_the_source_differ(tmp_path: Path) -> None:
    async with shop(tmp_path) as found:
        found.oracle.says = endpoints(*HERE, FOUR)
        await found.until(lambda: FOUR in found.health())
    later = Oracle(endpoints(*HERE[1:], FOUR))
    async with running(tmp_path, SHOP, 200.0) as engine, following(engine, later) as found:
        engine.connect()
        assert found.report().discovery.by == "ann"
        await found.until(lambda: set(found.health()) == {TWO, THREE, FOUR})


async def test_a_thousand_backends_come_and_go_together(tmp_path: Path) -> None:
    every = tuple(f"10.1.{number // 250}.{number % 250 + 1}:80" for number in range(1000))
    async with shop(tmp_path) as found:
        found.oracle.says = endpoints(*HERE, *every)
        await found.until(lambda: len(found.health()) == 1003)
        found.oracle.says = endpoints(*HERE, *every[:900])
        await found.until(lambda: len(found.health()) == 903)
        assert [verb for verb, _, _ in await found.operations()] == ["discovery set", "scale", "scale"]


async def test_versions_of_a_rollout_follow_their_sources_and_take_them_along(tmp_path: Path) -> None:
    async with running(tmp_path, SHOP) as engine, following(engine, Oracle(endpoints("10.0.1.1:80"))) as found:
        engine.connect()
        (first,) = await found.discovering.first(SOURCE)
        wanted = deployment("v2", str(first))
        discovery = found.discovering.said(SOURCE, "ann")
        begun = await engine.operations.deploy(wanted, ANN, discovery)
        assert await engine.operations.deploy(wanted, ANN, discovery) == begun  # to ask again is harmless
        found.oracle.says = endpoints("10.0.1.1:80", "10.0.1.2:80")
        await found.until(lambda: "10.0.1.2:80" in engine.controller.books.addresses("checkout", "v2"))
        await engine.until(Phase.WARMING, Phase.SHIFTING)
        await engine.order(Command.ABORT)
        await engine.ended()
        assert found.discovering.reports() == ()  # who is let go loses its source
        with pytest.raises(Unknown):
            found.report("v2")
        await engine.operations.retry("checkout", ANN)
        assert found.report("v2").discovery == discovery
        await found.until(lambda: found.report("v2").status is Status.FRESH)


async def test_a_deployment_that_waits_keeps_its_source_over_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, SHOP) as engine, following(engine, Oracle()) as found:
        engine.connect()
        await engine.operations.deploy(deployment("v2", "10.0.1.1:80"), ANN)
        await engine.until(Phase.SHIFTING)
        source = found.discovering.said(SOURCE, "ann")
        await engine.operations.supersede(deployment("v3", "10.0.2.1:80"), ANN, source)
        await engine.saved()
    later = Oracle(endpoints("10.0.2.1:80", "10.0.2.2:80"))
    async with running(tmp_path, SHOP, 200.0) as engine, following(engine, later) as found:
        engine.connect()
        await found.until(lambda: engine.controller.books.addresses("checkout", "v3") == ("10.0.2.1:80", "10.0.2.2:80"))
        await found.until(lambda: found.report("v3").status is Status.FRESH)
        assert found.report("v3").discovery.by == "ann"


async def test_a_source_with_backends_of_another_version_is_not_followed(tmp_path: Path) -> None:
    async with running(tmp_path, SHOP) as engine, following(engine, Oracle(endpoints("10.0.1.1:80"))) as found:
        engine.connect()
        await engine.operations.deploy(deployment("v2", "10.0.1.1:80"), ANN, found.discovering.said(SOURCE, "ann"))
        found.oracle.says = endpoints("10.0.1.1:80", ONE)
        await found.until(lambda: found.report("v2").status is Status.STALE)
        assert found.report("v2").fault == f"it names {ONE} of 'initial'; each version needs backends of its own"


async def test_a_first_answer_must_be_there_and_is_said(tmp_path: Path) -> None:
    async with running(tmp_path, SHOP) as engine, following(engine, Oracle()) as found:
        found.oracle.says = ()
        with pytest.raises(Unavailable, match=r"dns checkout\.internal answers, but names no backend"):
            await found.discovering.first(SOURCE)
        found.oracle.says = Unavailable("no answer within 5 s")
        with pytest.raises(Unavailable, match=r"dns checkout\.internal: no answer within 5 s"):
            await found.discovering.first(SOURCE)


async def test_a_source_is_set_and_removed_by_name_and_what_is_wrong_changes_nothing(tmp_path: Path) -> None:
    async with shop(tmp_path) as found:
        secret = {"consul": {"service": "checkout", "token_env": "ROLLOUT_DISCOVERY_TOKEN"}}
        with pytest.raises(InvalidSpec):
            await found.discovering.set("checkout", "initial", parse_discover(secret), ANN)
        with pytest.raises(Unknown):
            await found.discovering.set("checkout", "v9", SOURCE, ANN)
        with pytest.raises(Rehearsed, match="found by consul checkout"):
            await found.discovering.set("checkout", "initial", parse_discover("consul:checkout"), REHEARSING)
        await found.discovering.set("checkout", "initial", SOURCE, ANN)
        assert found.report().discovery.discover == SOURCE
        for _ in range(2):
            await found.discovering.remove("checkout", "initial", ANN)
        assert found.discovering.reports() == ()
        results = [(verb, result) for verb, _, result in await found.operations()][-3:]
        assert results == [
            ("discovery set", "no change"),
            ("discovery remove", "done"),
            ("discovery remove", "no change"),
        ]


# --- decisions and words ---


def test_shares_are_of_all_that_were_and_are_named() -> None:
    have = endpoints(ONE, TWO)
    made = plan(SOURCE, endpoints(THREE, FOUR), have, {})
    assert (made.add, made.missing, made.why) == (endpoints(THREE, FOUR), {ONE: 1, TWO: 1}, "")
    again = plan(SOURCE, endpoints(THREE, FOUR), (*have, *made.add), made.missing)
    assert not again.add
    assert again.remove == {ONE, TWO}
    assert plan(SOURCE, endpoints(FOUR), endpoints(ONE, TWO, THREE), {}).why
    every = parse_discover({**WORDS, "max_removed": "100%", "confirm": 1})
    assert plan(every, endpoints(FOUR), endpoints(ONE, TWO, THREE), {}).remove == {ONE, TWO, THREE}


def test_another_location_of_a_backend_is_taken_over() -> None:
    made = plan(SOURCE, endpoints(f"{ONE}@us/us-1"), endpoints(f"{ONE}@eu/eu-1"), {})
    assert [str(each) for each in made.add] == [f"{ONE}@us/us-1"]


def test_an_answer_takes_no_location_away_and_new_ones_are_where_all_are() -> None:
    told = endpoints(ONE, TWO, f"{THREE}@us/us-1", FOUR)
    known, same = endpoints(f"{ONE}@eu/eu-1", f"{TWO}@eu/eu-2"), endpoints(f"{ONE}@eu/eu-1")
    assert list(map(str, located(told, known, same))) == [*map(str, known), f"{THREE}@us/us-1", f"{FOUR}@eu/eu-1"]
    for present in (known, (), (*same, *endpoints(THREE))):  # two places, nobody, one place and none
        assert str(located(told, known, present)[-1]) == FOUR


async def test_a_source_that_knows_no_locations_leaves_those_that_are_known(tmp_path: Path) -> None:
    async with shop(tmp_path) as found:
        found.oracle.says = endpoints(ONE, TWO, THREE, FOUR)
        await found.until(lambda: FOUR in found.health())
        await found.looks(2)
        (version,) = found.engine.controller.books.versions("checkout")
        assert {str(each) for each in version.endpoints or ()} == {*HERE, FOUR}
        assert found.report().warning.startswith(f"{FOUR} have no location, while others")
        view = discovery_view(found.report(), 0.0)
        shown = io.StringIO()
        Console(width=200, file=shown).print(discoveries_table([view]))
        assert f"warning: {FOUR} have no location" in shown.getvalue()
        found.oracle.says = endpoints(*HERE, f"{FOUR}@us/us-1")
        await found.until(lambda: not found.report().warning)


@pytest.mark.parametrize(
    ("written", "whole"),
    [
        ("dns:a.b:80@eu/eu-1", {"dns": {"name": "a.b", "port": 80}, "location": "eu/eu-1"}),
        ("dns:_a._tcp.b@eu", {"dns": {"name": "_a._tcp.b"}, "location": "eu"}),
        ("consul:a@eu/eu-1", {"consul": {"service": "a"}, "location": "eu/eu-1"}),
        ("http_sd:https://a/@eu/1", {"http_sd": {"url": "https://a/@eu/1"}}),
    ],
)
def test_short_forms_take_a_location(written: str, whole: Mapping[str, object]) -> None:
    assert parse_discover(written) == parse_discover(whole)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({}, "has no source; give one of dns, consul, http_sd"),
        ({"dns": {"name": "a"}, "consul": {"service": "b"}}, "has dns and consul; give one of"),
        ("file:x", "'file:x' is no source; write dns:NAME (SRV), dns:NAME:PORT"),
        ("dns:a:80@", "'dns:a:80@' has no location behind its @"),
        ("dns:a:80@eu/eu/1", "'eu/eu/1' is no location"),
        ({"dns": {"name": "a b"}}, "'a b' is no DNS name"),
        ({"dns": {"name": "a", "type": "A"}}, "port: is missing; A records have none"),
        ({"dns": {"name": "a", "port": 80, "type": "SRV"}}, "SRV records have ports of their own"),
        ({"dns": {"name": "a", "server": "ns1:53"}}, "'ns1:53' is no name server; write IP:PORT"),
        ({"dns": {"nam": "a"}}, "dns.nam: is no setting; look for a typing error"),
        ({"consul": {"service": "../../kv/b"}}, "name a service of Consul's catalog"),
        ({"consul": {"service": "b", "token_env": "AWS_SECRET"}}, "name an environment variable of the server"),
        ({"consul": {"url": "http://c:1", "service": "b", "token_env": "ROLLOUT_DISCOVERY_T"}}, "in plain text"),
        ({"http_sd": {"url": "https://ann:s3cret@x/"}}, "has a user or password in it"),
        ({"dns": {"name": "a"}, "every": "10ms"}, "every: is too often"),
        ({"dns": {"name": "a"}, "max_removed": "0%"}, "would let no backend go ever"),
        ({"dns": {"name": "a"}, "location": "eu/eu/1"}, "'eu/eu/1' is no location"),
    ],
)
def test_what_is_written_wrong_is_told_with_its_path(written: object, words: str) -> None:
    with pytest.raises(RolloutError) as told:
        parse_discover(written)
    assert words in str(told.value)
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("discovery", "set", "checkout", "v1", "nowhere"), "no short form, as dns:NAME:PORT, and no file"),
        (("discovery", "set", "checkout", "v1", "dns:a:b"), "dns.port: must be a valid integer"),
        (("deploy", "checkout", "v2", "--discover", "dns:a b"), "is no DNS name"),
        (("deploy", "checkout", "v2", "--discover", "dns:a", "--endpoint", "10.0.0.1:80"), "not both"),
    ],
)
def test_a_source_that_is_none_is_wrong_usage(words: tuple[str, ...], told: str) -> None:
    result = rollout(*words)
    assert result.exit_code == 2
    assert told in " ".join(result.output.replace("│", "").split())
