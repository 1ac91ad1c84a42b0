"""Whether enough of a version is left when some of its backends go: asked of every Envoy before anything is let go."""

from rollout.controller import Controller
from rollout.errors import Conflict, Unavailable
from rollout.metrics import Query


async def check_spare(controller: Controller, service: str, version: str, going: frozenset[str]) -> None:
    """Raise Conflict when no healthy backend would be left, Unavailable when there are Envoys and none says so.

    Of any version: a rollback may need the one that has no traffic now.
    """
    if await healthy_others(controller, service, version, going):
        return
    these = ", ".join(sorted(going))
    which = f"{these} is the last healthy backend" if len(going) == 1 else f"{these} are the last healthy backends"
    what = f"{which} of '{version}', which has traffic or may get it back"
    raise Conflict(f"{what}; add others first, and wait until they are healthy; nothing was changed")


async def healthy_others(controller: Controller, service: str, version: str, going: frozenset[str]) -> frozenset[str]:
    """Return what proxies may use instead, in the group of proxies that has the fewest: what nobody finds ill."""
    others = _usable(controller, service, version) - going
    if others and controller.observer.connected():
        others -= await _ill(controller, service, version, others)
        others &= _usable(controller, service, version)  # others may have gone while the Envoys were asked
    groups = (each & others for each in controller.publisher.backends(service, version) if each & going)
    return min(groups, key=len, default=others)


def _usable(controller: Controller, service: str, version: str) -> frozenset[str]:
    """Return the backends of a version that stay and that nobody finds ill."""
    books = controller.books
    ill = books.unhealthy(service, version) | {each.address for each in controller.ailing.findings(service)}
    gone = {each.address for each in books.backends(service)} | books.let_go(service)
    return frozenset(books.addresses(service, version)) - gone - ill


async def _ill(controller: Controller, service: str, version: str, backends: frozenset[str]) -> frozenset[str]:
    """Return those that an Envoy finds unhealthy; where Envoys can tell, one must find the others healthy."""
    stat = controller.publisher.stat_name(service, version)
    scrapes = await controller.outside.survey(Query((stat,), tuple(sorted(backends))))
    if not scrapes:
        raise Unavailable(f"no Envoy says whether the other backends of '{version}' are healthy; nothing was changed")
    found = [each for scrape in scrapes.values() for each in scrape.clusters[stat].backends.items()]
    unseen = backends - {backend for backend, _ in found} if found else frozenset()
    return unseen | {backend for backend, stats in found if not stats.healthy}
