"""What operators ask of single backends: to let them go, to take them back, to add some to a version or remove some."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from rollout.controller import Controller
from rollout.drain import Drain
from rollout.errors import Conflict, InvalidSpec, Unknown
from rollout.events import of_backend
from rollout.holding import held
from rollout.ledger import Entry, Ledger
from rollout.prospect import goes, scales
from rollout.record import Backend, Change, DropBackend, PutBackend, PutEvent, PutService, PutVersion, Service, Version
from rollout.rights import Asker
from rollout.spare import check_spare
from rollout.spec import Endpoint
from rollout.waves import is_in


@dataclass(frozen=True, slots=True)
class Scaling:
    """Backends that a version gets, and addresses of those that it loses."""

    add: tuple[Endpoint, ...] = ()
    remove: frozenset[str] = frozenset()


class Backends:
    """Checks what is asked for, saves it with who asked, and then serves what follows from it.

    Every verb may be asked again: what is there already is not done twice.
    """

    def __init__(self, controller: Controller, ledger: Ledger) -> None:
        self._controller = controller
        self._ledger = ledger
        self._books = controller.books

    # --- drain ---

    async def drain(self, service: str, address: str, by: Asker) -> None:
        """Let one backend go. Raises Unknown, Unavailable, or Conflict for the last healthy one of its version."""
        await self._drain(service, address, by, lambda: self._at(service, address))

    async def drain_location(self, service: str, location: str, by: Asker) -> None:
        """Let a location's backends go, all or none: "region/zone", a region or a zone. Raises as `drain`."""
        await self._drain(service, f"location {location}", by, lambda: self._located(service, location))

    async def _drain(
        self, service: str, detail: str, by: Asker, found: Callable[[], Mapping[str, frozenset[str]]]
    ) -> None:
        self._controller.check_service(service)
        with self._ledger.asked(service, "drain", by, detail) as entry:
            going = self._not_gone(service, found())
            if not going:
                entry.same(f"{detail} of '{service}' is let go already, or was")
                return
            with held(self._controller, service, entry):
                for version, addresses in going.items():
                    await check_spare(self._controller, service, version, addresses)
                await self._controller.up_to_date(service)  # a rollout may have ended, and its version with it
                began_s = self._controller.outside.clock()
                backends = tuple(
                    Backend(service, version, address, Drain(began_s))
                    for version, addresses in self._not_gone(service, found()).items()
                    for address in sorted(addresses & going.get(version, frozenset()))
                )
                if backends:
                    entry.about_to(self._goes(service, backends))
                    await self._put(service, backends, entry)

    def _not_gone(self, service: str, found: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        gone = {(each.version, each.address) for each in self._books.backends(service)}
        left = {name: frozenset(each for each in found[name] if (name, each) not in gone) for name in found}
        return {name: addresses for name, addresses in left.items() if addresses}

    async def _put(self, service: str, backends: tuple[Backend, ...], entry: Entry) -> None:
        def put() -> None:
            for backend in backends:
                self._books.put_backend(backend)

        notes = entry.result(", ".join(each.address for each in backends))
        await self._controller.change(service, (*map(PutBackend, backends), *self._told(backends), notes), put)

    def _told(self, backends: Iterable[Backend]) -> list[PutEvent]:
        """Return the events of backends that are let go, or are gone."""
        at = self._controller.outside.wall()
        return [PutEvent(of_backend(each, at)) for each in backends]

    # --- undrain ---

    async def undrain(self, service: str, address: str, by: Asker) -> None:
        """Take back a backend that is let go, or was. Raises Unknown, Conflict, Unavailable."""
        await self._undrain(service, address, by, lambda: self._at(service, address))

    async def undrain_location(self, service: str, location: str, by: Asker) -> None:
        """Take back a location's backends that are let go, or were. Raises Unknown, Conflict, Unavailable."""
        await self._undrain(service, f"location {location}", by, lambda: self._located(service, location))

    async def _undrain(
        self, service: str, detail: str, by: Asker, found: Callable[[], Mapping[str, frozenset[str]]]
    ) -> None:
        self._controller.check_service(service)
        with self._ledger.asked(service, "undrain", by, detail) as entry:
            wanted = {(version, each) for version, addresses in found().items() for each in addresses}
            backends = [each for each in self._books.backends(service) if (each.version, each.address) in wanted]
            for backend in backends:
                self._check_kept(backend)
            if not backends:
                entry.same(f"{detail} of '{service}' is not let go")
                return
            with held(self._controller, service, entry):
                these = ", ".join(each.address for each in backends)
                entry.about_to(f"{these} of '{service}' gets requests again")
                notes = entry.result(", ".join(each.address for each in backends))
                drops = (DropBackend(service, each.version, each.address) for each in backends)
                await self._controller.change(service, (*drops, notes), lambda: self._drop(backends))

    def _check_kept(self, backend: Backend) -> None:
        """Raise Conflict for a backend that a rollout in progress has let go, and would let go again."""
        rollout = self._books.rollouts.get(backend.service)
        if rollout is None or self._books.over(rollout) or rollout.state.loser is not None:
            return
        if backend.version == rollout.candidate and backend.address in self._books.let_go(backend.service):
            what = f"{backend.address} had all errors of '{backend.version}', so the rollout in progress lets it go"
            raise Conflict(f"{what}; wait for its end, or abort it")

    # --- scale ---

    async def place(self, service: str, version: str, endpoints: tuple[Endpoint, ...], by: Asker) -> None:
        """Have a version run on just these backends. Raises as `scale`."""
        wanted = {each.address for each in endpoints}
        known = frozenset(self._books.placed(self._version(service, version)))
        await self.scale(service, version, Scaling(endpoints, known - wanted), by)

    async def scale(self, service: str, version: str, wanted: Scaling, by: Asker) -> None:
        """Add backends to a version, and let others go, which then leave it.

        Raises Unknown, InvalidSpec, Unavailable, or Conflict where none would be left, or what is added is another
        version's.
        """
        self._version(service, version)
        added = {each.address for each in wanted.add}
        words = [f"+{each}" for each in wanted.add] + [f"-{address}" for address in sorted(wanted.remove)]
        with self._ledger.asked(service, "scale", by, f"{version} {' '.join(words)}") as entry:
            both = sorted(added & wanted.remove)
            if both:
                raise InvalidSpec(f"{', '.join(both)} is to be added and removed; give it once")
            self._check_unused(service, version, added)
            with held(self._controller, service, entry):
                going = wanted.remove & set(self._books.placed(self._version(service, version)))
                if going - {each.address for each in self._drains(service, version)}:
                    await check_spare(self._controller, service, version, going)
                await self._controller.up_to_date(service)  # what was let go may have left, or the version ended
                await self._scale(self._version(service, version), wanted, entry)

    def _drains(self, service: str, version: str) -> list[Backend]:
        return [each for each in self._books.backends(service) if each.version == version]

    async def _scale(self, record: Version, wanted: Scaling, entry: Entry) -> None:
        service, name = record.service, record.name
        own = self._controller.publisher.own_endpoints(service) if record.endpoints is None else record.endpoints
        known = {each.address: each for each in own}
        drains = {each.address: each for each in self._drains(service, name)}
        back = [each for address, each in drains.items() if each.leaves and address in {e.address for e in wanted.add}]
        going = frozenset(wanted.remove & known.keys())
        leaving = self._leaving(record, going, drains)
        gone = {each.address for each in leaving if each.removed}  # nothing runs there: it leaves at once
        left = {**known, **{each.address: each for each in wanted.add}}
        version = replace(record, endpoints=tuple(each for address, each in left.items() if address not in gone))
        same = set(version.endpoints or ()) == set(own) and not back and not gone
        if same and not any(drains.get(each.address) != each for each in leaving):
            entry.same(f"'{name}' of '{service}' runs on just these")
            return
        coming = [each for each in left if each not in known]
        entry.about_to(scales(version, coming, [each.address for each in back], sorted(going)))

        marks = self._books.marks_of(service, gone)

        def scaled() -> None:
            self._books.settle(Service(service, self._books.stable(service)), version)
            self._drop([*back, *(each for each in leaving if each.removed)])
            self._books.drop_marks(marks)
            for backend in leaving:
                if not backend.removed:
                    self._books.put_backend(backend)

        drops = (DropBackend(service, name, each.address) for each in (*back, *leaving) if each in back or each.removed)
        puts = (PutBackend(each) for each in leaving if not each.removed)
        stable = PutService(Service(service, self._books.stable(service)))
        told = self._told(each for each in leaving if each.removed or each.address not in drains)
        changes: tuple[Change, ...] = (stable, PutVersion(version), *drops, *marks, *puts, *told, entry.result())
        await self._controller.change(service, changes, scaled)

    def _leaving(self, record: Version, going: frozenset[str], drains: Mapping[str, Backend]) -> list[Backend]:
        """Return the backends that go as they are let go from now on."""
        fresh = Drain(self._controller.outside.clock())
        return [
            replace(drains.get(address, Backend(record.service, record.name, address, fresh)), leaves=True)
            for address in sorted(going)
        ]

    def _check_unused(self, service: str, version: str, added: set[str]) -> None:
        for other in self._books.versions(service):
            shared = sorted(added & set(self._books.addresses(service, other.name)))
            if other.name != version and shared:
                what = f"{', '.join(shared)} belongs to '{other.name}' of '{service}'"
                raise Conflict(f"{what}; give '{version}' backends of its own")

    # --- what they share ---

    def _goes(self, service: str, backends: tuple[Backend, ...]) -> str:
        """Say what is let go, for who rehearses it."""
        by_version: dict[str, list[str]] = {}
        for each in backends:
            by_version.setdefault(each.version, []).append(each.address)
        gone = {each.address for each in (*backends, *self._books.backends(service))}
        return "; ".join(
            goes(service, version, these, len(set(self._books.addresses(service, version)) - gone))
            for version, these in by_version.items()
        )

    def _version(self, service: str, version: str) -> Version:
        self._controller.check_service(service)
        versions = self._books.versions(service)
        record = next((each for each in versions if each.name == version), None)
        if record is None:
            known = ", ".join(each.name for each in versions)
            what = f"'{service}' has no version '{version}' now; it has {known}"
            raise Unknown(f"{what}. Where a new one runs is said when it is deployed")
        return record

    def _at(self, service: str, address: str) -> Mapping[str, frozenset[str]]:
        """Return the version that has this address, also of what was let go. Raises Unknown."""
        for version in self._books.versions(service):
            if address in self._books.placed(version):
                return {version.name: frozenset({address})}
        known = ", ".join(each for version in self._books.versions(service) for each in self._books.placed(version))
        raise Unknown(f"'{service}' has no backend {address}; it has {known or 'none'}")

    def _located(self, service: str, location: str) -> Mapping[str, frozenset[str]]:
        """Return the backends in a location by version. Raises Unknown where there are none."""
        places = {version.name: self._places(version) for version in self._books.versions(service)}
        found = {
            name: frozenset(address for address, place in by_address.items() if is_in(place, location))
            for name, by_address in places.items()
        }
        if not any(found.values()):
            known = sorted({place for by_address in places.values() for place in by_address.values() if place})
            what = f"'{service}' has no backend in {location}"
            raise Unknown(f"{what}; its backends are in {', '.join(known) or 'no location that is known'}")
        return found

    def _places(self, version: Version) -> Mapping[str, str]:
        if version.endpoints is None:
            return self._controller.publisher.places(version.service)
        return {each.address: each.location for each in version.endpoints}

    def _drop(self, backends: list[Backend]) -> None:
        for backend in backends:
            self._books.drop_backend(backend)
