"""What operators ask of a service's versions: to deploy, undo or retry one, to name it, to forget it."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta

from rollout.controller import Controller, Order
from rollout.discovery.kept import Discovery
from rollout.errors import Conflict, InvalidSpec, Unavailable, Unknown
from rollout.events import of_start
from rollout.foresight import foreseen
from rollout.hooks import HookKind
from rollout.ledger import Entry, Ledger
from rollout.machine import plan
from rollout.prospect import begins
from rollout.record import (
    Change,
    DropPast,
    DropQueued,
    DropVersion,
    Origin,
    PutBackend,
    PutEvent,
    PutOperation,
    PutQueued,
    PutRollout,
    PutService,
    PutVersion,
    Queued,
    Rollout,
    Service,
    Version,
)
from rollout.rights import Asker
from rollout.saver import Saving
from rollout.spec import Deployment, Endpoint, Strategy, check_version_name
from rollout.state import Command, Phase, Role, start
from rollout.traffic.fitting import check_fits

QUEUE_TICK_S = 1.0
VERSIONS_SAID = 5
_SAY_WHERE = "give its backends with --endpoint"


class Operations:
    """Checks what is asked for, saves it with who asked, and then serves what follows from it.

    Every verb may be asked again: what is there already is not done twice.
    """

    def __init__(self, controller: Controller, ledger: Ledger) -> None:
        self._controller = controller
        self._ledger = ledger
        self._books = controller.books
        self._observer = controller.observer
        self._outside = controller.outside
        self._saver = controller.saver

    # --- deploy ---

    async def deploy(self, deployment: Deployment, by: Asker, discovery: Discovery | None = None) -> Rollout:
        """Start a rollout, or return the one that does just this; back to a version that is still warm in one push.

        `discovery` says where the endpoints were found, and are from then on. None: who asks has said them.
        Raises Unknown, Conflict, Unavailable, or InvalidSpec for what may not be done here.
        """
        version, strategy = _version_of(deployment, discovery), deployment.strategy
        service = version.service
        current = self._controller.rollout(service)
        with self._ledger.asked(service, "deploy", by, self._words(version)) as entry:
            self._outside.permit(strategy)
            if current is not None and self._does(current, version):
                if self._controller.in_progress(service) and current.strategy != strategy:
                    what = f"a rollout of '{service}' to '{current.candidate}' is in progress, by another strategy"
                    raise Conflict(f"{what}; abort it, or ask with --supersede")
                entry.same(f"rollout {current.id} of '{service}' does just this, or has done it")
                return current
            if current is not None and self._went_back(current, version):
                entry.same(f"rollout {current.id} of '{service}' goes back to just this version, or has")
                return current
            if current is not None and self._is_warm(current, version):
                return await self._take_back(current, Order(Command.ABORT, by, why=_again(version, by)), entry)
            self._check_idle(service)
            self._check_free(version, self._books.stable(service))
            return await self._begin(version, strategy, Origin.DEPLOY, f"deployed by {by}", entry)

    async def supersede(self, deployment: Deployment, by: Asker, discovery: Discovery | None = None) -> Rollout:
        """Take back the rollout in progress, and begin this one when that has ended; return the first.

        A deployment that waits already is replaced. Without a rollout in progress it is `deploy`. Raises as that.
        """
        version, strategy = _version_of(deployment, discovery), deployment.strategy
        service = version.service
        current = self._controller.rollout(service)
        if current is None or not self._controller.in_progress(service):
            return await self.deploy(deployment, by, discovery)
        with self._ledger.asked(service, "supersede", by, self._words(version)) as entry:
            self._outside.permit(strategy)
            going_back = current.state.loser is Role.CANDIDATE
            if self._does(current, version) and current.strategy == strategy and not going_back:
                entry.same(f"rollout {current.id} of '{service}' does just this")
                return current
            order = Order(Command.ABORT, by, why=f"superseded by {version.name} ({by})")
            if self._went_back(current, version):
                return await self._stay_back(current, entry)
            if version.name == current.stable and self._books.runs(version) and _can_go_back(current):
                return await self._take_back(current, order, entry)
            self._check_free(version, _winner(current))
            return await self._queue(Queued(version, strategy, str(by), self._outside.wall()), order, entry)

    async def _queue(self, queued: Queued, order: Order, entry: Entry) -> Rollout:
        service = queued.version.service
        goes_back = _can_go_back(self._books.rollouts[service])
        first = self._foreseen(service, order) if goes_back and entry.rehearses else "the rollout in progress ends"
        waiting = self._books.queued.get(service)
        instead = f", in place of {waiting.version.name}, which waits now" if waiting else ""
        entry.about_to(f"{first}; when it has ended, a rollout to {self._words(queued.version)} begins{instead}")
        if goes_back:
            self._controller.obey(service, order)
        if waiting is None or (waiting.version, waiting.strategy) != (queued.version, queued.strategy):
            # No await since the abort: both are saved in one batch, so a crash leaves neither or both.
            self._saver.put(
                Saving((PutQueued(queued), entry.result("queued")), service, lambda: self._books.put_queued(queued))
            )
        await self._controller.settled(service)
        return self._books.rollouts[service]

    async def dequeue(self, service: str, by: Asker) -> None:
        """Take out the deployment that waits. Raises Unknown or Unavailable."""
        self._controller.check_service(service)
        waiting = self._books.queued.get(service)
        with self._ledger.asked(service, "dequeue", by, waiting.version.name if waiting else "") as entry:
            if waiting is not None:
                entry.about_to(_dequeues(waiting))
                await self._drop_queued(service, entry.result())
            entry.same(f"no deployment of '{service}' waits")

    async def _drop_queued(self, service: str, note: PutOperation) -> None:
        changes = (DropQueued(service), note)
        await self._controller.change(service, changes, lambda: self._books.drop_queued(service))

    async def run(self) -> None:
        """Begin deployments that wait, each when its service is free, until cancelled."""
        while True:
            self._controller.freed.clear()
            await self.begin_queued()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUEUE_TICK_S):
                    await self._controller.freed.wait()

    async def begin_queued(self) -> None:
        """Begin what waits where no rollout is in progress; what is not possible any more says so and stays."""
        for service in tuple(self._books.queued):
            queued = self._books.queued.get(service)  # while the one before was saved it may have been taken out
            if queued is None or queued.fault:
                continue
            if self._books.is_free(service) and self._controller.is_quiet(service):
                with contextlib.suppress(Unavailable):  # it begins once it is saved
                    await self._begin_queued(queued)

    async def _begin_queued(self, queued: Queued) -> None:
        version, by = queued.version, Asker(queued.by, "the queue")
        try:
            with self._ledger.asked(version.service, "deploy", by, f"{self._words(version)}, from the queue") as entry:
                self._controller.check_service(version.service)
                self._outside.permit(queued.strategy)
                self._check_free(version, self._books.stable(version.service))
                await self._begin(version, queued.strategy, Origin.DEPLOY, f"deployed by {by}, from the queue", entry)
        except (Conflict, Unknown, InvalidSpec) as error:
            failed = replace(queued, fault=str(error))
            saving = Saving((PutQueued(failed),), version.service, lambda: self._books.put_queued(failed))
            await self._saver.wait(self._saver.put(saving))

    # --- back and again ---

    async def undo(self, service: str, by: Asker, to: str = "", endpoints: tuple[Endpoint, ...] = ()) -> Rollout:
        """Go back: a rollout in progress is taken back, a completed one followed by one to the version before.

        `to` is another past version, `endpoints` where it runs now. Within the strategy's rollback_window a version
        that has served needs no stages. Raises Unknown, Conflict, Unavailable.
        """
        current = self._controller.rollout(service)
        with self._ledger.asked(service, "undo", by, f"to {to}" if to else "") as entry:
            if to:
                check_version_name(to)
            if current is None:
                raise Conflict(f"'{service}' has had no rollout, so there is nothing to undo")
            if self._controller.in_progress(service):
                return await self._undo_present(current, Order(Command.ABORT, by, why=f"undone by {by}"), to, entry)
            unchanged = self.nothing_to_undo(service, to)
            if unchanged:
                entry.same(unchanged)
                return current
            target = to or current.stable
            known = Version(service, target, endpoints) if endpoints else self._past(service, target, _SAY_WHERE)
            version, strategy = known, self._back_by(service, target, current)
            self._outside.permit(strategy)
            self._check_free(version, self._books.stable(service))
            return await self._begin(version, strategy, Origin.UNDO, f"back to {target}: undone by {by}", entry)

    def nothing_to_undo(self, service: str, to: str = "") -> str:
        """Say why an undo would change nothing now, and what does; "" where it would, or is refused."""
        current = self._books.rollouts.get(service)
        if current is None:
            return ""
        if self._controller.in_progress(service):
            drops = current.state.loser is Role.CANDIDATE and service in self._books.queued
            return "" if drops else _undone_already(current, to)
        stable = self._books.stable(service)
        # One that went back, or was an undo, is not undone: asked again, traffic would swing to and fro.
        taken_back, was_undo = current.state.loser is Role.CANDIDATE, current.origin is Origin.UNDO
        if (to or (stable if taken_back or was_undo else current.stable)) != stable:
            return ""
        why = f" since rollout {current.id}, an undo" if was_undo else ""
        why = f", for rollout {current.id} to '{current.candidate}' was taken back" if taken_back else why
        others = ", ".join(each.name for each in self._books.past_versions(service)[:VERSIONS_SAID])
        what = f"'{stable}' has the traffic already{why}"
        return f"{what}; `rollout undo {service} --to VERSION` goes to another one ({others})" if others else what

    async def _undo_present(self, current: Rollout, order: Order, to: str, entry: Entry) -> Rollout:
        unchanged = self.nothing_to_undo(current.service, to)
        if unchanged:
            entry.same(unchanged)
            return current
        if current.state.loser is Role.CANDIDATE and to in ("", current.stable):
            return await self._stay_back(current, entry)
        if to not in ("", current.stable):
            what = f"a rollout of '{current.service}' is in progress ({current.stable} -> {current.candidate})"
            raise Conflict(f"{what}; abort it first, then undo --to {to}")
        if not _can_go_back(current):
            what = f"'{current.stable}' is being let go already"
            raise Conflict(f"{what}; ask again when the rollout has ended: `rollout undo` begins one back to it then")
        return await self._take_back(current, order, entry)

    def _back_by(self, service: str, target: str, current: Rollout) -> Strategy:
        """Return the strategy of the way back: one stage of 100 % while the version is known to be good."""
        past = self._books.past(service, target)
        if past is None:
            return current.strategy
        if not past.served:  # one that was only tried is not known to be good
            return past.strategy
        thawed = past.strategy.model_copy(update={"freeze": None})  # going back may begin at any time
        since = timedelta(seconds=self._outside.clock() - past.ended.engine_s)
        if since > thawed.rollback_window:
            return thawed
        return thawed.model_copy(update={"stages": thawed.stages[-1:], "waves": ()})

    async def retry(self, service: str, by: Asker) -> Rollout:
        """Begin the last rollout again, which was taken back. Raises Unknown, Conflict, Unavailable."""
        current = self._controller.rollout(service)
        with self._ledger.asked(service, "retry", by, current.candidate if current else "") as entry:
            if current is None:
                raise Conflict(f"'{service}' has had no rollout, so there is nothing to try again")
            went_back = current.state.loser is Role.CANDIDATE
            if current.origin is Origin.RETRY and not went_back:
                entry.same(f"rollout {current.id} of '{service}' tries it again, or has")
                return current
            self._check_idle(service)
            if not went_back:
                raise Conflict(f"the last rollout of '{service}' has completed; there is nothing to try again")
            provided = any(hook.at is HookKind.PROVISION for hook in current.strategy.hooks)
            anew = Version(service, current.candidate, ())  # the hook says where it runs
            version = anew if provided else self._past(service, current.candidate, "deploy it with its backends")
            self._outside.permit(current.strategy)
            self._check_free(version, self._books.stable(service))
            return await self._begin(version, current.strategy, Origin.RETRY, f"tried again by {by}", entry)

    def _past(self, service: str, name: str, remedy: str) -> Version:
        """Return a past version where it ran. Raises Unknown or Conflict."""
        past = self._books.past(service, name)
        if past is None:
            known = ", ".join(each.name for each in self._books.past_versions(service)) or "none"
            what = f"it is not known where version '{name}' of '{service}' runs (known: {known})"
            raise Unknown(f"{what}; {remedy}")
        version = Version(service, name, past.endpoints, past.discovery)
        if set(self._books.placed(version)) != set(past.addresses):
            what = f"envoy-configs has other endpoints of '{service}' than when '{name}' ended"
            raise Conflict(f"{what} ({', '.join(past.addresses) or 'none'}); {remedy}")
        return version

    async def _take_back(self, current: Rollout, order: Order, entry: Entry) -> Rollout:
        """Take a rollout back, which waits for nothing."""
        service = current.service
        entry.about_to(self._foreseen(service, order) if entry.rehearses else "")
        self._controller.obey(service, order)
        self._saver.put(Saving((entry.result("taken back"),), service))
        await self._controller.settled(service)
        return self._books.rollouts[service]

    async def _stay_back(self, current: Rollout, entry: Entry) -> Rollout:
        """Begin no other one behind a rollout that goes back."""
        waiting = self._books.queued.get(current.service)
        if waiting is not None:
            entry.about_to(_dequeues(waiting))
            await self._drop_queued(current.service, entry.result(f"{waiting.version.name} taken out of the queue"))
        entry.same(f"rollout {current.id} of '{current.service}' goes back to '{current.stable}' already")
        return self._books.rollouts[current.service]

    # --- commands ---

    async def command(self, service: str, order: Order) -> Rollout:
        """Obey an operator. Raises Unknown, Conflict, or Unavailable when it was done but is not saved yet."""
        self._controller.check_service(service)
        with self._ledger.asked(service, order.command, order.by, order.location) as entry:
            before = self._books.rollouts.get(service)
            if entry.rehearses:
                self._rehearse(service, order, entry)
            entry.about_to("")
            self._controller.obey(service, order)
            if self._books.rollouts.get(service) is not before:
                self._saver.put(Saving((entry.result(),), service))
            await self._controller.settled(service)
        return self._books.rollouts[service]

    def _rehearse(self, service: str, order: Order, entry: Entry) -> None:
        words = foreseen(self._controller, service, order)
        if words:
            entry.about_to(words)
        entry.same(f"to {order.command.replace('_', ' ')} the rollout of '{service}' changes nothing now")

    def _foreseen(self, service: str, order: Order) -> str:
        return foreseen(self._controller, service, order) or "the rollout goes back already"

    # --- versions ---

    async def adopt(self, service: str, version: str, by: Asker) -> None:
        """Name the version that envoy-configs' endpoints are. Raises InvalidSpec, Unknown or Conflict."""
        check_version_name(version)
        self._controller.check_service(service)
        before = self._books.stable(service)
        with self._ledger.asked(service, "adopt", by, version) as entry:
            if before == version:
                return
            if service in self._books.rollouts:
                raise Conflict(f"'{service}' has had a rollout; its stable version keeps its name, '{before}'")
            with self._controller.alone(service):
                await self._controller.up_to_date(service)
                entry.about_to(f"the version '{before}' of '{service}' is called '{version}'; nothing else changes")
                await self._rename(service, before, version, entry)

    async def _rename(self, service: str, before: str, version: str, entry: Entry) -> None:
        (record,) = self._books.versions(service)
        renamed = replace(record, name=version)
        backends = [replace(each, version=version) for each in self._books.backends(service)]
        changes: tuple[Change, ...] = (
            DropVersion(service, before),
            PutService(Service(service, version)),
            PutVersion(renamed),
            *map(PutBackend, backends),
            entry.result(),
        )

        def adopted() -> None:
            self._books.adopt(renamed, backends)
            self._observer.renamed(service, before, version)

        await self._controller.change(service, changes, adopted)

    async def forget(self, service: str, version: str, by: Asker) -> None:
        """Forget a past version. Raises Unknown, Conflict for one that is in use, or Unavailable."""
        self._controller.check_service(service)
        with self._ledger.asked(service, "version remove", by, version) as entry:
            if any(each.name == version for each in self._books.versions(service)):
                raise Conflict(self._in_use(service, version))
            if self._books.past(service, version) is None:
                known = ", ".join(each.name for each in self._books.past_versions(service)) or "none"
                raise Unknown(f"'{service}' has no past version '{version}'; it has {known}")
            entry.about_to(f"the past version '{version}' of '{service}' is forgotten: nothing goes back to it by name")
            changes = (DropPast(service, version), entry.result())
            await self._controller.change(service, changes, lambda: self._books.drop_past(service, version))

    def _in_use(self, service: str, version: str) -> str:
        if self._controller.in_progress(service):
            return f"version '{version}' is in the rollout of '{service}' in progress; wait for its end, or abort it"
        return f"version '{version}' has the traffic of '{service}'; deploy another one first"

    # --- what they share ---

    def _words(self, version: Version) -> str:
        count = len(self._books.placed(version))
        return f"{version.name} on {count} backend{'' if count == 1 else 's'}"

    def _does(self, current: Rollout, version: Version) -> bool:
        """Say whether a rollout is to this version on these endpoints, and they are still there."""
        return current.candidate == version.name and self._books.runs(version)

    def _went_back(self, current: Rollout, version: Version) -> bool:
        """Say whether a rollout was taken back to just this version, or is about to be."""
        back = current.state.loser is Role.CANDIDATE
        return back and current.stable == version.name and self._books.runs(version)

    def _is_warm(self, current: Rollout, version: Version) -> bool:
        """Say whether this is the old version of a rollout that is kept for a while."""
        return _behind(current) is Phase.RETAINING and current.stable == version.name and self._books.runs(version)

    def _check_idle(self, service: str) -> None:
        current = self._books.rollouts.get(service)
        if current is not None and not self._books.over(current):
            phase = current.state.phase.replace("_", " ")
            moving = f"{current.stable} -> {current.candidate}, {phase}"
            what = f"a rollout of '{service}' is in progress ({moving}); wait for its end, or abort it"
            raise Conflict(f"{what}; deploy with --supersede takes it back and comes after it")

    def _check_free(self, version: Version, stable: str) -> None:
        """Raise Conflict when the stable version has this name, or one of these endpoints."""
        service = version.service
        known = self._books.addresses(service, stable)
        if version.name == stable:
            what = f"version '{stable}' of '{service}' exists already, on {', '.join(known) or 'no endpoints'}"
            raise Conflict(f"{what}; give the new version another name")
        shared = sorted(set(known) & set(self._books.placed(version)))
        if shared:
            what = f"{', '.join(shared)} belongs to '{stable}', whose backends are let go at the end"
            raise Conflict(f"{what}; give '{version.name}' backends of its own")

    async def _begin(self, version: Version, strategy: Strategy, origin: Origin, reason: str, entry: Entry) -> Rollout:
        service = version.service
        check_fits(self._controller.publisher, service, strategy)
        stable, current = self._books.stable(service), self._books.rollouts.get(service)
        past = self._observer.historian.past(service, stable, strategy.gate)
        state = start(self._outside.clock(), reason, plan(strategy, past))
        at, number = self._outside.wall(), current.id + 1 if current else 1
        rollout = Rollout(service, number, stable, version.name, strategy, state, 1, at, at, origin)

        def begin() -> None:
            self._books.begin(rollout, version)
            self._outside.changed(rollout, None)

        with self._controller.alone(service):
            entry.about_to(begins(rollout, self._books.placed(version)))
            changes: tuple[Change, ...] = (
                PutService(Service(service, stable)),
                *(PutVersion(each) for each in (*self._books.versions(service), version)),
                PutRollout(rollout, None),
                PutEvent(of_start(rollout)),
                DropQueued(service),
                entry.result(f"rollout {number}"),
            )
            await self._saver.wait(self._saver.put(Saving(changes, service, begin)))
        return rollout


def _dequeues(waiting: Queued) -> str:
    service, name = waiting.version.service, waiting.version.name
    return f"the deployment of '{name}' that waits for '{service}' is taken out of the queue; no traffic moves"


def _version_of(deployment: Deployment, discovery: Discovery | None) -> Version:
    return Version(deployment.service, deployment.version, deployment.endpoints, discovery)


def _behind(rollout: Rollout) -> Phase:
    return rollout.state.resume or rollout.state.phase


def _undone_already(rollout: Rollout, to: str) -> str:
    """Say why an undo leaves a rollout in progress as it is; "" where it does not."""
    number, stable, candidate = rollout.id, rollout.stable, rollout.candidate
    if rollout.state.loser is Role.CANDIDATE:
        return f"rollout {number} goes back to '{stable}' already" if to in ("", stable) else ""
    if to == candidate:
        return f"rollout {number} goes to '{candidate}' already"
    if to or rollout.origin is not Origin.UNDO:
        return ""
    remedy = f"`rollout undo {rollout.service} --to {stable}` stays with '{stable}' after all"
    return f"rollout {number} goes back to '{candidate}' already; {remedy}"


def _can_go_back(rollout: Rollout) -> bool:
    """Say whether a rollout in progress goes forward, and may be taken back."""
    return rollout.state.loser is None or (rollout.state.loser is Role.STABLE and _behind(rollout) is Phase.RETAINING)


def _winner(rollout: Rollout) -> str:
    """Return which version will be stable when a rollout ends that is taken back if it still can be."""
    goes_back = rollout.state.loser is Role.CANDIDATE or _can_go_back(rollout)
    return rollout.stable if goes_back else rollout.candidate


def _again(version: Version, by: Asker) -> str:
    return f"{version.name} was deployed again by {by}"
