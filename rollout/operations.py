"""What operators ask of services outside of a rollout's machine: deployments, names of versions, drains."""

from dataclasses import replace

from rollout.controller import Controller
from rollout.drain import Drain
from rollout.errors import Conflict, Unavailable, Unknown
from rollout.machine import plan
from rollout.metrics import Query
from rollout.record import (
    Backend,
    Change,
    DropVersion,
    PutBackend,
    PutRollout,
    PutService,
    PutVersion,
    Rollout,
    Service,
    Version,
)
from rollout.saver import Saving
from rollout.spec import Deployment, check_version_name
from rollout.state import start


class Operations:
    """Checks what is asked for, saves it, and then serves what follows from it."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._books = controller.books
        self._observer = controller.observer
        self._publisher = controller.publisher
        self._outside = controller.outside
        self._saver = controller.saver

    async def deploy(self, deployment: Deployment, by: str) -> Rollout:
        """Start a rollout, or return the one that does just this.

        Raises Unknown, Conflict, Unavailable, or InvalidSpec for checks that may not be run here.
        """
        service = deployment.service
        current = self._controller.rollout(service)
        self._outside.permit(deployment.strategy.all_checks())
        if current is not None and current.candidate == deployment.version and self._books.runs(deployment):
            if self._controller.in_progress(service) and current.strategy != deployment.strategy:
                raise Conflict(f"a rollout of '{service}' to '{current.candidate}' is in progress, by another strategy")
            return current
        self._check_free(deployment, current)
        at, stable = self._outside.wall(), self._books.stable(service)
        past = self._observer.historian.past(service, stable, deployment.strategy.gate)
        state = start(self._outside.clock(), f"deployed by {by}", plan(deployment.strategy, past))
        number = current.id + 1 if current else 1
        rollout = Rollout(service, number, stable, deployment.version, deployment.strategy, state, 1, at, at)
        with self._controller.alone(service):
            await self._begin(rollout, Version(service, deployment.version, deployment.endpoints))
        return rollout

    async def adopt(self, service: str, version: str) -> None:
        """Name the version that envoy-configs' endpoints are. Raises InvalidSpec, Unknown or Conflict."""
        check_version_name(version)
        self._controller.check_service(service)
        before = self._books.stable(service)
        if before == version:
            return
        if service in self._books.rollouts:
            raise Conflict(f"'{service}' has had a rollout; its stable version keeps its name, '{before}'")
        changes = (
            DropVersion(service, before),
            PutService(Service(service, version)),
            PutVersion(Version(service, version, None)),
        )

        def adopted() -> None:
            self._books.adopt(service, version)
            self._observer.renamed(service, before, version)

        with self._controller.alone(service):
            await self._saved(Saving(changes, service, adopted))

    async def drain(self, service: str, address: str) -> Backend:
        """Let one backend go. Raises Unknown, or Conflict for the last healthy one of its version."""
        self._controller.check_service(service)
        versions = [version.name for version in self._books.versions(service)]
        version = next((each for each in versions if address in self._books.addresses(service, each)), None)
        if version is None:
            known = ", ".join(each for name in versions for each in self._books.addresses(service, name))
            raise Unknown(f"'{service}' has no backend {address}; it has {known or 'none'}")
        started = next((each for each in self._books.backends(service) if each.address == address), None)
        if started is not None:
            return started
        with self._controller.alone(service):
            # Of any version: a rollback may need the one that has no traffic now.
            if not await self._healthy_others(service, version, address):
                what = f"{address} is the last healthy backend of '{version}', which has traffic or may get it back"
                raise Conflict(f"{what}; nothing was changed")
            backend = Backend(service, version, address, Drain(self._outside.clock()))
            await self._saved(Saving((PutBackend(backend),), service, lambda: self._books.put_backend(backend)))
        return backend

    async def _begin(self, rollout: Rollout, candidate: Version) -> None:
        service = rollout.service

        def begin() -> None:
            self._books.begin(rollout, candidate)
            self._outside.changed(rollout, None)

        changes: tuple[Change, ...] = (
            PutService(Service(service, rollout.stable)),
            *(PutVersion(version) for version in (*self._books.versions(service), candidate)),
            PutRollout(rollout, None),
        )
        await self._saver.wait(self._saver.put(Saving(changes, service, begin)))

    def _check_free(self, deployment: Deployment, current: Rollout | None) -> None:
        """Raise Conflict when there is a rollout, a version of this name, or one on these endpoints."""
        service = deployment.service
        if current is not None and not self._books.over(current):
            phase = current.state.phase.replace("_", " ")
            moving = f"{current.stable} -> {current.candidate}, {phase}"
            raise Conflict(f"a rollout of '{service}' is in progress ({moving}); wait for its end, or abort it")
        stable = self._books.stable(service)
        known = self._books.addresses(service, stable)
        if deployment.version == stable:
            what = f"version '{stable}' of '{service}' exists already, on {', '.join(known) or 'no endpoints'}"
            raise Conflict(f"{what}; give the new version another name")
        shared = sorted(set(known) & {endpoint.address for endpoint in deployment.endpoints})
        if shared:
            what = f"{', '.join(shared)} belongs to '{stable}', whose backends are let go at the end"
            raise Conflict(f"{what}; give '{deployment.version}' backends of its own")

    async def _healthy_others(self, service: str, version: str, address: str) -> frozenset[str]:
        """Return the version's other backends that no Envoy finds ill, and one finds healthy where Envoys can tell.

        Raises Unavailable when there are Envoys, and none answers.
        """
        leaving = {each.address for each in self._books.backends(service)}
        others = frozenset(self._books.addresses(service, version)) - leaving - {address}
        if not others or not self._observer.connected():
            return self._fewest(service, version, address, others)
        stat = self._publisher.stat_name(service, version)
        scrapes = await self._outside.survey(Query((stat,), tuple(sorted(others))))
        if not scrapes:
            raise Unavailable(
                f"no Envoy says whether the other backends of '{version}' are healthy; nothing was changed"
            )
        found = [each for scrape in scrapes.values() for each in scrape.clusters[stat].backends.items()]
        ill = {backend for backend, stats in found if not stats.healthy}
        healthy = (frozenset(backend for backend, _ in found) or others) - ill
        return self._fewest(service, version, address, healthy)

    def _fewest(self, service: str, version: str, address: str, others: frozenset[str]) -> frozenset[str]:
        """Return what proxies that have an address have of the others, in the group of proxies that has the fewest."""
        groups = (each & others for each in self._publisher.backends(service, version) if address in each)
        return min(groups, key=len, default=others)

    async def _saved(self, saving: Saving) -> None:
        """Save a change, then serve what follows from it."""
        then = saving.then

        def saved() -> None:
            then()
            self._controller.publish(saving.service)

        await self._saver.wait(self._saver.put(replace(saving, then=saved)))
