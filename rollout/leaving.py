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

    def look_at(self, backend: Backend) -> None:
        """Take one look at a backend that is drained."""
        if self._saver.unsaved(backend.service):
            return
        rollout = self._books.rollouts.get(backend.service)
        strategy = rollout.strategy if rollout else Strategy()
        drain = look_at_drain(
            backend.drain,
            now_s=self._around.clock(),
            acked=self._observer.backend_known(backend),
            active=self._observer.activity.on_backend(backend),
            limit_s=strategy.drain_timeout.total_seconds(),
        )
        if drain == backend.drain:
            return
        following = replace(backend, drain=drain, removed=drain.done)
        if drain.done:
            self._around.done(following)
        if drain.done and backend.leaves:
            self._leave(following)
            return

        def looked() -> None:
            self._books.put_backend(following)
            self._publish(backend.service)

        told: tuple[Change, ...] = (self._told(following),) if drain.done else ()
        self._saver.put(Saving((PutBackend(following), *told), backend.service, looked))

    def _leave(self, backend: Backend) -> None:
        """Take a backend out of its version, for nothing runs on it any more."""
        version, marks = self._books.without(backend), self._books.marks_of(backend.service, (backend.address,))

        def left() -> None:
            self._books.put_version(version)
            self._books.drop_backend(backend)
            self._books.drop_marks(marks)
            self._publish(backend.service)

        gone = DropBackend(backend.service, backend.version, backend.address)
        changes: tuple[Change, ...] = (PutVersion(version), gone, *marks, self._told(backend))
        self._saver.put(Saving(changes, backend.service, left))

    def _told(self, backend: Backend) -> PutEvent:
        return PutEvent(of_backend(backend, self._around.wall()))
