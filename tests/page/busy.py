"""A shop on a busy day: rollouts in every state that the page shows, proxies that refuse, backends that are let go.

Some texts in it may be hostile: markup, and words without an end.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from rollout.demo.processes import until
from tests.page.pretended import Proxy, fleet
from tests.page.shop import ASKS, LIMIT_S, QUICK_GATE, STAYS, Shop, connected, serving, settings_in, write_configs
from xds.resources import LISTENERS

SERVICES = ("checkout", "cart", "payments", "search", "stock", "users")
MARKUP = '<img src=x onerror="window.hurt=1"><b>bold</b>'
LONG = "Supercalifragilistic" * 10
PLACES = ("eu/eu-1", "us/us-1", "ap/ap-1")
JUDGED = {**STAYS, "gate": {"warmup": "0s"}}
WAVES = {
    "waves": [{"locations": ["eu-1"]}, {"locations": "all"}],
    "stages": [{"weight": "20%", "hold": "1h"}, "100%"],
    "gate": QUICK_GATE,
}
VIEWS = {
    "services": "Services",
    "services/checkout": "checkout",
    "services/cart": "cart",
    "services/payments": "payments",
    "services/search": "search",
    "services/users": "users",
    "services/stock": "stock",
    "services/cart/rollouts/1": "cart",
    "fleet": "Fleet",
    "strategies": "Strategies",
    "config": "Configuration",
    "events": "Events",
    "audit": "Audit",
    "tokens": "Tokens",
}
"""Every view by its address, and the heading that it has."""


def proxies() -> tuple[Proxy, ...]:
    return tuple(Proxy(f"edge-{place.rpartition('/')[2]}", place, 300.0, {"cart@v2": 0.09}) for place in PLACES)


@contextlib.asynccontextmanager
async def busy_shop(
    folder: Path, known: Sequence[Proxy], who: str = "ann", reason: str = "disk is full"
) -> AsyncIterator[Shop]:
    """Run it: `checkout` is in mid-stage, `cart` was taken back, `payments` asks, `search` goes by waves."""
    async with serving(settings_in(folder, SERVICES)) as shop, fleet(shop.door.listening.xds, known):
        await connected(shop, len(PLACES))
        for service in SERVICES:
            assert (await shop.ask("POST", f"/v1/services/{service}/adopt", {"version": "v1"})).status == 200
        for service, strategy in (("checkout", JUDGED), ("cart", JUDGED), ("payments", ASKS), ("search", WAVES)):
            await shop.deploy(strategy, service, X_Rollout_User=who)
        said = await shop.ask("PUT", "/v1/strategies/careful", {"strategy": JUDGED}, X_Rollout_User=who)
        assert said.status == 201, said.raw
        await _let_backends_go(shop, reason)
        await asyncio.gather(
            shop.until("checkout", phase="shifting"),
            shop.until("cart", outcome="rolled_back"),
            shop.until("payments", awaiting="approval"),
            shop.until("search", phase="shifting"),
        )
        yield shop


@contextlib.asynccontextmanager
async def hostile_shop(folder: Path) -> AsyncIterator[Shop]:
    """Run it with markup wherever somebody may write something, and a proxy and the server each refusing something."""
    known = proxies()
    async with busy_shop(folder, known, MARKUP, f"{MARKUP} {LONG}") as shop:
        await _refuse_listener(shop, known[2], f"{MARKUP} {LONG}")
        await _refuse_configuration(shop, MARKUP)
        await shop.until("checkout", phase="paused")
        yield shop


async def _let_backends_go(shop: Shop, reason: str) -> None:
    mark = {"backend": "10.0.0.1:8080", "health": "unhealthy", "reason": reason}
    for path, body in (("health", mark), ("drains", {"backend": "10.0.0.2:8080"})):
        said = await shop.ask("POST", f"/v1/services/users/{path}", body)
        assert said.status < 300, said.raw


async def _refuse_listener(shop: Shop, proxy: Proxy, why: str) -> None:
    proxy.refuses = {LISTENERS: f"Error adding/updating listener(s) edge: {why}"}
    write_configs(shop.settings.configs, SERVICES, stat_prefix="shop")
    assert (await shop.ask("POST", "/v1/config/reload")).status == 200

    async def refused() -> bool:
        nodes = (await shop.get("/v1/fleet"))["nodes"]
        return any(each["nack"] for node in nodes for each in node["types"].values())

    await until(refused, within_s=LIMIT_S, what="a proxy to refuse")


async def _refuse_configuration(shop: Shop, field: str) -> None:
    broken = shop.settings.configs / "broken.yaml"
    broken.write_text(f"clusters:\n- name: new\n  '{field}': 1\n")
    assert (await shop.ask("POST", "/v1/config/reload")).status == 422
    broken.unlink()
