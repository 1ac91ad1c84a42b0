"""Single backends on their way out: let go, looked at until nothing runs on them, taken out."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime

from rollout.books import Books
from rollout.drain import Drain
from rollout.drain import look as look_at_drain
from rollout.events import of_backend
from rollout.observer import Observer
from rollout.record import Backend, Change, DropBackend, PutBackend, PutEvent, PutVersion
from rollout.saver import Saver, Saving
from rollout.spec import Strategy


@dataclass(frozen=True, slots=True)
class Around:
    """What is around the drains: the engine's seconds, the time of people, and who hears of each that is done."""

    clock: Callable[[], float]
    wall: Callable[[], datetime]
    done: Callable[[Backend], None]


class Leaving:
    """Follows each drain of a backend. `publish` serves what follows from it."""

    def __init__(
        self, books: Books, observer: Observer, saver: Saver, publish: Callable[[str], None], around: Around
    ) -> None:
        self._books = books
        self._observer = observer
        self._saver = saver
        self._publish = publish
        self._around = around

    def let_go(self, service: str, version: str, address: str, changing: Collection[str]) -> None:
        """Drain a backend, unless all others have gone since that was decided, or are about to."""
        known = self._books.addresses(service, version)
        others = set(known) - {each.address for each in self._books.backends(service)} - {address}
        if service in changing or not others:
            return
        backend = Backend(service, version, address, Drain(self._around.clock()))

        def let_go() -> None:
            self._books.put_backend(backend)
            self._publish(backend.service)

        self._saver.put(Saving((PutBackend(backend), self._told(backend)), service, let_go))

    def look_at(self, service: str) -> None:
        """Take one look at the backends of a service that are drained; what it shows of them is saved together."""
        if self._saver.unsaved(service):
            return
        draining = [each for each in self._books.backends(service) if not each.removed]
        looked = [each for each in map(self._looked_at, draining) if each not in draining]
        if not looked:
            return
        for each in looked:
            if each.removed:
                self._around.done(each)
        leaving = [each for each in looked if each.removed and each.leaves]
        gone, left = self._left(service, leaving)
        staying = [each for each in looked if each not in leaving]

        def seen() -> None:
            for each in staying:
                self._books.put_backend(each)
            left()
            self._publish(service)

        told = (self._told(each) for each in looked if each.removed)
        self._saver.put(Saving((*map(PutBackend, staying), *gone, *told), service, seen))

    def _looked_at(self, backend: Backend) -> Backend:
        rollout = self._books.rollouts.get(backend.service)
        strategy = rollout.strategy if rollout else Strategy()
        drain = look_at_drain(
            backend.drain,
            now_s=self._around.clock(),
            acked=self._observer.backend_known(backend),
            active=self._observer.activity.on_backend(backend),
            limit_s=strategy.drain_timeout.total_seconds(),
        )
        return replace(backend, drain=drain, removed=drain.done)

    def _left(self, service: str, leaving: Collection[Backend]) -> tuple[tuple[Change, ...], Callable[[], None]]:
        """Take backends out of their versions, for nothing runs on them any more: what is saved, and what then."""
        addresses: dict[str, set[str]] = {}
        for each in leaving:
            addresses.setdefault(each.version, set()).add(each.address)
        versions = tuple(self._books.without(service, name, gone) for name, gone in addresses.items())
        marks = self._books.marks_of(service, (each.address for each in leaving))

        def left() -> None:
            for version in versions:
                self._books.put_version(version)
            for backend in leaving:
                self._books.drop_backend(backend)
            self._books.drop_marks(marks)

        drops = (DropBackend(service, each.version, each.address) for each in leaving)
        return (*map(PutVersion, versions), *drops, *marks), left

    def _told(self, backend: Backend) -> PutEvent:
        return PutEvent(of_backend(backend, self._around.wall()))
