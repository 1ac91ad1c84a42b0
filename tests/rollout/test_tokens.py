"""Tokens from making to their end, on the command line and in an engine whose time a test moves; wrong ones told."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rollout.access import throttle
from rollout.access.doorkeeper import Doorkeeper, Premises, Shown
from rollout.access.throttle import Throttle
from rollout.access.trust import Trust, best, parse
from rollout.credentials import IDLE_LIMIT, PREFIX, SESSION_LIMIT, Wanted, hashed, parse_lifetime, without_secrets
from rollout.errors import Conflict, InvalidSpec, NotAllowed, NotIdentified, RolloutError, TooMany, Unknown
from rollout.ledger import Ledger
from rollout.rights import ANYBODY, Asker, Grant, Identity, Role, Via
from rollout.store.sqlite import open_store
from tests.rollout.commandline import configuration, rollout, serving, words
from tests.rollout.operating import Engine
from xds.errors import InvalidConfig

ADMIN, VIEWER, SHOP = Grant(Role.ADMIN), Grant(Role.VIEWER), Grant(Role.OPERATOR, ("shop-*",))
BOSS = Asker("boss")
ROOT = "a-token-that-somebody-chose"
SHOWN = Shown("127.0.0.1", None, "", frozenset(), lambda _: [])


class Office:
    """A doorkeeper in an engine with a real store; `refused` has who was wrong."""

    def __init__(self, engine: Engine, root: str | None = None, trust: Trust | None = None) -> None:
        self.engine = engine
        self.refused: list[tuple[str, str]] = []
        saver = engine.controller.saver
        premises = Premises(
            root, lambda: trust, self.clock, engine.wall, lambda *wrong: self.refused.append(wrong), print
        )
        self.keeper = Doorkeeper(premises, Ledger(saver, engine.wall, engine.told.append), saver)
        self.tokens, self.sessions = self.keeper.tokens, self.keeper.sessions

    def clock(self) -> float:
        return self.engine.now_s

    def later(self, by: timedelta) -> None:
        self.engine.now_s += by.total_seconds()

    async def made(self, name: str, grant: Grant = ADMIN, lifetime: timedelta | None = None) -> str:
        return (await self.tokens.create(Wanted(name, grant, lifetime), BOSS))[1]

    def by(self, secret: str | None = None, cookie: str = "", address: str = "127.0.0.1", **headers: str) -> Identity:
        given = {name.replace("_", "-").lower(): value for name, value in headers.items()}

        def header(name: str) -> list[str]:
            return [given[name.lower()]] if name.lower() in given else []

        return self.keeper.identify(Shown(address, secret, cookie, frozenset(), header))


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    store = await open_store(tmp_path)
    engine = Engine(store)
    await engine.start()
    saving = asyncio.create_task(engine.controller.save())
    yield engine
    saving.cancel()
    await store.close()


def refused(kind: type[RolloutError], text: str) -> Any:
    return pytest.raises(kind, match=text)


# --- tokens ---


async def test_token_is_known_by_its_hash_after_a_restart_too(engine: Engine) -> None:
    office = Office(engine)
    secret = await office.made("boss")
    assert secret.startswith(PREFIX)
    assert len(secret) - len(PREFIX) == 43  # 256 bits
    contents = await engine.store.load()
    assert [(each.name, each.hash, each.grant) for each in contents.tokens] == [("boss", hashed(secret), ADMIN)]
    again = Office(engine)
    again.keeper.restore(contents)
    assert again.by(secret) == Identity("boss", ADMIN, Via.TOKEN, hashed(secret)[:8])


async def test_expired_token_is_refused_and_keeps_the_door_shut(engine: Engine) -> None:
    office = Office(engine)
    assert office.by() == ANYBODY
    secret = await office.made("boss", lifetime=timedelta(hours=1))
    assert office.by(secret).name == "boss"
    office.later(timedelta(hours=1))
    with refused(NotIdentified, "'boss' has expired"):
        office.by(secret)
    with refused(NotIdentified, "Authorization: Bearer"):
        office.by()


async def test_nobody_locks_everybody_out(engine: Engine) -> None:
    office = Office(engine)
    for grant in (VIEWER, Grant(Role.ADMIN, ("shop",))):
        with refused(Conflict, "must be an admin's without limits"):
            await office.made("ann", grant)
    await office.made("boss")
    await office.made("ann", SHOP)
    await office.made("brief", lifetime=timedelta(minutes=1))
    await office.tokens.revoke("brief", BOSS)
    await office.made("brief", lifetime=timedelta(minutes=1))
    office.later(timedelta(minutes=1))
    with refused(Conflict, "'boss' is the last token that may do everything"):
        await office.tokens.revoke("boss", BOSS)
    rooted = Office(engine, ROOT)
    rooted.keeper.restore(await engine.store.load())
    assert (await rooted.tokens.revoke("boss", BOSS)).name == "boss"


async def test_names_are_one_tokens_and_are_free_again(engine: Engine) -> None:
    office = Office(engine, ROOT)
    first = await office.made("ci", SHOP)
    with refused(Conflict, "there is a token 'ci'"):
        await office.made("ci")
    token = office.tokens.by_key(office.by(first).key)
    assert token is not None
    await office.tokens.revoke(token.key, BOSS)
    with refused(NotIdentified, "not known, or was revoked"):
        office.by(first)
    await office.made("ci", SHOP)
    with refused(Unknown, "no token 'bob'"):
        await office.tokens.revoke("bob", BOSS)
    assert [(each.verb, each.result.partition(":")[0]) for each in engine.told] == [
        ("token create", "done"),
        ("token create", "Conflict"),
        ("token revoke", "done"),
        ("token create", "done"),
        ("token revoke", "Unknown"),
    ]


@pytest.mark.parametrize("name", ["", "root", "Root", "a b", "ä", "-x", "0123abcd", "x" * 65, "rlt_" + "x" * 43])
async def test_names_that_would_mislead_are_refused(engine: Engine, name: str) -> None:
    with refused(InvalidSpec, "name: "):
        await Office(engine, ROOT).made(name)


@pytest.mark.parametrize("services", [("a b",), ("",), ("x" * 254,), tuple(f"s{each}" for each in range(101))])
async def test_services_that_cannot_be_are_refused(engine: Engine, services: tuple[str, ...]) -> None:
    with refused(InvalidSpec, "services: "):
        await Office(engine, ROOT).made("ci", Grant(Role.OPERATOR, services))


def test_lifetimes_are_read_with_their_units() -> None:
    assert [parse_lifetime(text) for text in ("30s", "12h", "90d", "4w")] == [
        timedelta(seconds=30),
        timedelta(hours=12),
        timedelta(days=90),
        timedelta(weeks=4),
    ]
    for text in ("", "0d", "90", "-1d", "1y", "3651d", "1.5h"):
        with refused(InvalidSpec, "is no time to live"):
            parse_lifetime(text)


def test_secret_in_the_wrong_place_is_not_shown() -> None:
    assert without_secrets("/v1/tokens/rlt_abc-DEF_1/x") == "/v1/tokens/rlt_.../x"


async def test_rehearsal_makes_no_token(engine: Engine) -> None:
    office = Office(engine, ROOT)
    with pytest.raises(RolloutError, match="create the token ci: operator of shop-"):
        await office.tokens.create(Wanted("ci", SHOP), Asker("ann", rehearses=True))
    assert not office.tokens.exist()


# --- sessions ---


async def test_sessions_end_by_time_and_by_rest(engine: Engine) -> None:
    office = Office(engine)
    secret = await office.made("boss")
    idle, busy = [(await office.keeper.log_in(secret, Asker, SHOWN))[1] for _ in range(2)]
    step = IDLE_LIMIT - timedelta(minutes=1)
    office.later(step)
    assert office.by(cookie=busy) == Identity("boss", ADMIN, Via.SESSION, hashed(busy)[:8])
    office.later(step)
    assert office.by(cookie=busy).name == "boss"
    with refused(NotIdentified, "the session has ended; log in again"):
        office.by(cookie=idle)
    saving = engine.controller.saver.last("")
    assert saving is not None  # when it was used is saved
    await engine.controller.saver.wait(saving)
    again = Office(engine)
    again.keeper.restore(await engine.store.load())
    assert again.by(cookie=busy).name == "boss"
    for _ in range(SESSION_LIMIT // step - 2):
        office.later(step)
        office.by(cookie=busy)
    office.later(step)
    with refused(NotIdentified, "the session has ended"):
        office.by(cookie=busy)  # it was not idle, but is as old as it may be


async def test_session_of_a_limited_token_is_limited_and_ends_with_it(engine: Engine) -> None:
    office = Office(engine, ROOT)
    secret = await office.made("shop", SHOP, timedelta(hours=1))
    who, cookie = await office.keeper.log_in(secret, Asker, SHOWN)
    assert (who.grant, office.keeper.holds(who, SHOWN)) == (SHOP, True)
    office.later(timedelta(hours=1))
    assert not office.keeper.holds(who, SHOWN)
    with refused(NotIdentified, "the session has ended"):
        office.by(cookie=cookie)
    await office.keeper.log_in(ROOT, Asker, SHOWN)
    assert [each.token for each in (await engine.store.load()).sessions] == [""]  # what has ended is not kept


# --- wrong too often ---


async def test_guesses_are_not_heard_from_one_address_and_are_from_others(engine: Engine) -> None:
    office = Office(engine, ROOT)
    for _ in range(throttle.ONE.burst):
        with refused(NotIdentified, "not known"):
            office.by("guess", address="10.0.0.1")
    with refused(TooMany, "too many wrong tokens"):
        office.by(ROOT, address="10.0.0.1")
    assert office.by(ROOT, address="10.0.0.2").via is Via.ROOT
    office.later(timedelta(seconds=1 / throttle.ONE.per_s))
    assert office.by(ROOT, address="10.0.0.1").via is Via.ROOT
    whence, why = zip(*office.refused, strict=True)
    assert set(whence) == {"10.0.0.1"}
    assert [each.partition(" ")[0] for each in why] == ["the"] * throttle.ONE.burst + ["too"]


def test_throttle_counts_networks_all_together_and_forgets() -> None:
    limits = Throttle()
    for each in range(throttle.ONE.burst):
        limits.failed(f"2001:db8::{each}", 0.0)
    with pytest.raises(TooMany) as caught:
        limits.check("2001:db8::ffff", 0.0)
    assert caught.value.wait_s == pytest.approx(1 / throttle.ONE.per_s)
    limits.check("2001:db8:0:1::1", 0.0)
    for each in range(throttle.ADDRESSES_LIMIT + 10):
        limits.failed(f"10.{each >> 16}.{(each >> 8) & 255}.{each & 255}", 0.0)
    assert len(limits._to_s) == throttle.ADDRESSES_LIMIT
    with pytest.raises(TooMany):
        limits.check_all(0.0)
    limits.check_all(1e6)


# --- trust ---


def test_highest_grant_counts_and_equal_ones_together() -> None:
    assert best([]) is None
    assert best([VIEWER, SHOP, Grant(Role.OPERATOR, ("cart",))]) == Grant(Role.OPERATOR, ("cart", "shop-*"))
    assert best([SHOP, Grant(Role.OPERATOR), VIEWER]) == Grant(Role.OPERATOR)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "f.yaml: trusts nobody"),
        ("certificates: [{name: ann.corp, role: boss}]", "f.yaml: certificates[0].role: must be 'viewer'"),
        ("certificates: [{name: ann.corp}]", "f.yaml: certificates[0].role: is missing"),
        ("certificates: [{name: '*.corp', role: admin}]", "certificates[0].name: '*.corp' fits no certificate"),
        ("certificates: [{name: 'spiffe://a b', role: admin}]", "certificates[0].name: 'spiffe://a b' fits no"),
        ("certificates: [{name: a.b, role: viewer}, {name: A.b, role: admin}]", "[1].name: 'a.b' is there twice"),
        ("certificates: [{name: a.b, role: viewer, service: x}]", "certificates[0].service: is no setting"),
        ("proxy: {from: [], user: U, groups: G, roles: {a: {role: viewer}}}", "f.yaml: proxy.from: "),
        ("proxy: {from: [0.0.0.0/0], user: U, groups: G, roles: {a: {role: viewer}}}", "is everybody"),
        ("proxy: {from: [proxy.corp], user: U, groups: G, roles: {a: {role: viewer}}}", "'proxy.corp' is no network"),
        ("proxy: {from: [10.0.0.1], user: Cookie, groups: G, roles: {a: {role: viewer}}}", "'Cookie' is no header"),
        ("proxy: {from: [10.0.0.1], user: U, groups: G, roles: {}}", "f.yaml: proxy: nobody whom it lets in"),
        ("proxy: [", "is no YAML"),
    ],
)
def test_faults_of_the_access_file_say_where(text: str, problem: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse("f.yaml", text)
    assert problem in str(caught.value)


async def test_proxy_that_passes_a_clients_header_on_is_refused(engine: Engine) -> None:
    text = "proxy: {from: [10.0.0.5/32], user: X-User, groups: X-Groups, roles: {dev: {role: viewer}}}"
    office = Office(engine, trust=parse("f.yaml", text))
    assert office.by(address="::ffff:10.0.0.5", X_User="ann", X_Groups="dev") == Identity("ann", VIEWER, Via.PROXY)
    with refused(NotAllowed, "X-User is there 2 times"):
        office.keeper.identify(Shown("10.0.0.5", None, "", frozenset(), lambda _: ["ann", "bob"]))


# --- the command line ---


def test_first_token_is_made_without_a_server_and_the_others_with_one(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    assert "must be an admin's" in rollout("token", "create", "ci", "--role", "operator", *data).output
    boss = rollout("token", "create", "boss", "--role", "admin", *data)
    assert (boss.exit_code, boss.stdout.startswith(PREFIX), len(boss.stdout.split())) == (0, True, 1)
    assert "there is a token 'boss'" in rollout("token", "create", "boss", "--role", "admin", *data).output
    with serving(tmp_path, configuration(["checkout"])) as server:
        as_boss = {"server": server.url, "ROLLOUT_TOKEN": boss.stdout.strip()}
        assert "Authorization" in rollout("list", server=server.url).output
        options = ("--role", "operator", "--service", "check*", "--expires", "90d")
        ci = rollout("token", "create", "ci", *options, **as_boss)
        assert "token ci (" in ci.stderr
        listed = words(rollout("token", "list", **as_boss).stdout)
        assert "boss" in listed
        assert "operator check* 20" in listed
        assert rollout("list", server=server.url, ROLLOUT_TOKEN=ci.stdout.strip()).exit_code == 0
        assert "needs the role admin" in rollout("token", "list", server=server.url, ROLLOUT_TOKEN=ci.stdout).output
        said = rollout("token", "revoke", ci.stdout.strip(), **as_boss)
        assert (said.exit_code, "is a token's secret" in said.output) == (1, True)
        assert ci.stdout.strip() not in said.output
        assert "is revoked" in rollout("token", "revoke", "ci", **as_boss).stdout
        assert rollout("list", server=server.url, ROLLOUT_TOKEN=ci.stdout.strip()).exit_code == 1
        assert "the last token" in rollout("token", "revoke", "boss", **as_boss).output
        assert "in use by" in rollout("token", "create", "x", "--role", "admin", *data).output


def test_token_in_clear_is_warned_of() -> None:
    said = rollout("list", server="http://192.0.2.1.invalid:1", ROLLOUT_TOKEN="some")  # noqa: S106 - a test's
    assert "warning: the token goes to http://192.0.2.1.invalid:1 in clear; use https://" in words(said.stderr)
    assert "in clear" not in rollout("list", ROLLOUT_TOKEN="some").stderr  # noqa: S106 - a test's
