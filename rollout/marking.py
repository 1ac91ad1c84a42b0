"""What operators say of the health of single backends: marks, which the whole fleet follows."""

from rollout.controller import Controller
from rollout.errors import InvalidSpec, Unknown
from rollout.holding import held
from rollout.ledger import Ledger
from rollout.record import DropMark, Mark, PutMark
from rollout.rights import Asker
from rollout.spare import check_spare

REASON_LIMIT = 300


class Marking:
    """Checks what is asked for, saves it, and then serves what follows from it. To ask again is harmless."""

    def __init__(self, controller: Controller, ledger: Ledger) -> None:
        self._controller = controller
        self._ledger = ledger
        self._books = controller.books

    async def unhealthy(self, service: str, address: str, reason: str, by: Asker) -> None:
        """Have no Envoy send a backend anything new until it is marked healthy.

        Raises Unknown, InvalidSpec, Unavailable, or Conflict for the last healthy one of its version.
        """
        version = self._version(service, address)
        with self._ledger.asked(service, "mark", by, f"{address} unhealthy") as entry:
            if len(reason) > REASON_LIMIT:
                raise InvalidSpec(f"reason: has {len(reason)} characters; say it in {REASON_LIMIT}")
            if (service, address) in self._books.marks:
                entry.same(f"{address} of '{service}' is marked unhealthy already")
                return
            with held(self._controller, service, entry):
                await check_spare(self._controller, service, version, frozenset({address}))
                await self._controller.up_to_date(service)
                self._version(service, address)  # its rollout may have ended since, and its version with it
                entry.about_to(f"no Envoy sends {address} of '{version}' anything new; what runs there goes on")
                mark = Mark(service, address, str(by), self._controller.outside.wall(), reason)
                changes = (PutMark(mark), entry.result())
                await self._controller.change(service, changes, lambda: self._books.put_mark(mark))

    async def healthy(self, service: str, address: str, by: Asker) -> None:
        """Take an operator's mark away, and have Envoys be asked anew. Raises Unknown, Conflict or Unavailable."""
        if (service, address) not in self._books.marks:  # else it may be no version's any more
            self._version(service, address)
        with self._ledger.asked(service, "mark", by, f"{address} healthy") as entry:
            if (service, address) not in self._books.marks:
                entry.same(f"{address} of '{service}' is not marked; Envoys are only asked of it anew")
                self._controller.ailing.forgive(service, address)
                return
            with held(self._controller, service, entry):
                entry.about_to(f"the mark of {address} is taken away: it is used when it is found healthy")
                self._controller.ailing.forgive(service, address)
                changes = (DropMark(service, address), entry.result())
                await self._controller.change(service, changes, lambda: self._books.drop_mark(service, address))

    def _version(self, service: str, address: str) -> str:
        """Return the version that a backend is of. Raises Unknown."""
        self._controller.check_service(service)
        by_version = {each.name: self._books.addresses(service, each.name) for each in self._books.versions(service)}
        version = next((name for name, addresses in by_version.items() if address in addresses), None)
        if version is None:
            known = ", ".join(each for addresses in by_version.values() for each in addresses)
            raise Unknown(f"'{service}' has no backend {address}; it has {known or 'none'}")
        return version
