"""What operators say of the health of single backends: marks, which the whole fleet follows."""

from collections.abc import Callable
from enum import StrEnum

from rollout.controller import Controller
from rollout.errors import Conflict, InvalidSpec, Unavailable, Unknown
from rollout.metrics import Query
from rollout.record import Change, DropMark, Mark, Operation, PutMark, PutOperation
from rollout.saver import Saving

REASON_LIMIT = 300


class Health(StrEnum):
    """What a backend may be marked as; healthy takes a mark away."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Marking:
    """Checks what is asked for, saves it, and then serves what follows from it. To ask again is harmless."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._books = controller.books

    async def unhealthy(self, service: str, address: str, reason: str, by: str) -> None:
        """Have no Envoy send a backend anything new until it is marked healthy.

        Raises Unknown, InvalidSpec, Unavailable, or Conflict for the last healthy one of its version.
        """
        version = self._version(service, address)
        if len(reason) > REASON_LIMIT:
            raise InvalidSpec(f"reason: has {len(reason)} characters; say it in {REASON_LIMIT}")
        if (service, address) in self._books.marks:
            return
        with self._controller.alone(service):
            if not await self._healthy_others(service, version, address):
                what = f"{address} is the last healthy backend of '{version}', which has traffic or may get it back"
                raise Conflict(f"{what}; nothing was changed. Mark another one healthy, or add one, then mark this one")
            mark = Mark(service, address, by, self._controller.outside.wall(), reason)
            operation = Operation(mark.at, service, "mark", by, f"{address} unhealthy", reason)
            changes = (PutMark(mark), PutOperation(operation))
            await self._saved(service, changes, lambda: self._books.put_mark(mark))

    async def healthy(self, service: str, address: str, by: str) -> None:
        """Take an operator's mark away, and have Envoys be asked anew. Raises Unknown or Unavailable."""
        self._version(service, address)
        self._controller.ailing.forgive(service, address)
        if (service, address) not in self._books.marks:
            return
        with self._controller.alone(service):
            operation = Operation(self._controller.outside.wall(), service, "mark", by, f"{address} healthy", "")
            changes = (DropMark(service, address), PutOperation(operation))
            await self._saved(service, changes, lambda: self._books.drop_mark(service, address))

    async def _saved(self, service: str, changes: tuple[Change, ...], then: Callable[[], None]) -> None:
        """Save a change, then serve what follows from it."""

        def saved() -> None:
            then()
            self._controller.publish(service)

        await self._controller.saver.wait(self._controller.saver.put(Saving(changes, service, saved)))

    def _version(self, service: str, address: str) -> str:
        """Return the version that a backend is of. Raises Unknown."""
        self._controller.check_service(service)
        by_version = {each.name: self._books.addresses(service, each.name) for each in self._books.versions(service)}
        version = next((name for name, addresses in by_version.items() if address in addresses), None)
        if version is None:
            known = ", ".join(each for addresses in by_version.values() for each in addresses)
            raise Unknown(f"'{service}' has no backend {address}; it has {known or 'none'}")
        return version

    async def _healthy_others(self, service: str, version: str, address: str) -> frozenset[str]:
        """Return whom every proxy that has this backend may use instead: what no Envoy and no probe finds ill.

        Raises Unavailable when there are Envoys, and none answers.
        """
        gone = {each.address for each in self._books.backends(service)} | self._books.unhealthy(service, version)
        others = frozenset(self._books.addresses(service, version)) - gone - {address}
        others -= {each.address for each in self._controller.ailing.findings(service)}
        if others and self._controller.observer.connected():
            others -= await self._ill(service, version, others)
        groups = (each & others for each in self._controller.publisher.backends(service, version) if address in each)
        return min(groups, key=len, default=others)

    async def _ill(self, service: str, version: str, backends: frozenset[str]) -> frozenset[str]:
        """Return those of them that an Envoy finds unhealthy; where Envoys can tell, one must find the others healthy."""
        stat = self._controller.publisher.stat_name(service, version)
        scrapes = await self._controller.outside.survey(Query((stat,), tuple(sorted(backends))))
        if not scrapes:
            raise Unavailable(
                f"no Envoy says whether the other backends of '{version}' are healthy; nothing was changed"
            )
        found = [each for scrape in scrapes.values() for each in scrape.clusters[stat].backends.items()]
        unseen = backends - {backend for backend, _ in found} if found else frozenset()
        return unseen | {backend for backend, stats in found if not stats.healthy}
