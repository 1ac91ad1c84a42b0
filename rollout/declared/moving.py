"""What a service needs to have the version that a document wants, on its backends: the steps, as things stand."""

from collections.abc import Collection, Mapping
from typing import Any

from rollout.declared.steps import Action, Placed, Standing, Step, Wanted, Wishes, stages_words
from rollout.discovery.source import Discover
from rollout.exposure import percent
from rollout.hooks import HookKind, at
from rollout.record import Origin, Rollout, Version
from rollout.spec import Endpoint
from rollout.state import Phase, Role
from rollout.traffic.publisher import INITIAL


def service_steps(wanted: Wanted, now: Standing, wishes: Wishes) -> tuple[Step, ...]:
    """Return what is to be done for a service: one step, or none that changes anything."""
    if now.in_progress and now.rollout is not None:
        return _during(wanted, now, now.rollout, wishes)
    if now.queued is not None and not now.queued.fault:
        return (_queued(wanted, now, wishes),)
    if wanted.version == now.stable:
        return (_backends(wanted, now, "has the traffic already"),)
    if _is_first(wanted, now):
        return _adopted(wanted, now)
    held = "" if wishes.retry else _given_up(wanted, now)
    return (_held(wanted, now, held) if held else _rollout(wanted, now),)


# --- nothing is in progress ---


def _rollout(wanted: Wanted, now: Standing) -> Step:
    count = len(wanted.endpoints or ())
    backends = f"on {count} backend{'' if count == 1 else 's'}" if count else "where its `provision` hook says"
    backends = backends if wanted.discover is None else f"where {wanted.discover.label} finds it"
    by = f"by strategy {wanted.label}: {stages_words(wanted.strategy)}"
    words = f"rollout {now.stable} -> {wanted.version} {backends}, {by}"
    return _step(wanted, now, Action.ROLLOUT, words)


def _is_first(wanted: Wanted, now: Standing) -> bool:
    """Say whether the version is what envoy-configs gives the service, and only lacks its name."""
    if now.stable != INITIAL or now.rollout is not None:
        return False
    if wanted.endpoints is None:
        return wanted.discover is None and not at(wanted.strategy.hooks, HookKind.PROVISION)
    known = {each.address for each in now.versions[INITIAL].staying()}
    return known == {each.address for each in wanted.endpoints}


def _adopted(wanted: Wanted, now: Standing) -> tuple[Step, ...]:
    words = f"the version that has the traffic is called {wanted.version}, not {INITIAL}"
    adopt = _step(wanted, now, Action.ADOPT, words)
    placed = _backends(wanted, _renamed(now, wanted.version), "")
    return (adopt,) if placed.action is Action.NONE else (adopt, placed)


def _renamed(now: Standing, version: str) -> Standing:
    versions = {version if name == INITIAL else name: placed for name, placed in now.versions.items()}
    return Standing(now.service, version, versions)


def _backends(wanted: Wanted, now: Standing, otherwise: str) -> Step:
    """Return the step to where a version shall run that is there; `otherwise` says what of one that runs there."""
    placed = now.versions.get(wanted.version)
    if placed is not None and wanted.discover is not None and wanted.discover != placed.discover:
        words = f"backends of {wanted.version} are found by {wanted.discover.label} from now on"
        return _step(wanted, now, Action.BACKENDS, words)
    if wanted.endpoints is None or placed is None:
        return _step(wanted, now, Action.NONE, f"{wanted.version} {otherwise}")
    coming, going = placed.lacks(wanted.endpoints), placed.beyond(wanted.endpoints)
    if not coming and not going and placed.discover is None:
        return _step(wanted, now, Action.NONE, f"{wanted.version} {otherwise}")
    if placed.discover is not None:
        words = f"backends of {wanted.version} are those of the document"
        return _step(wanted, now, Action.BACKENDS, f"{words}, and no more what {placed.discover.label} finds")
    marks = [f"+{each}" for each in coming] + [f"-{each} (drained first)" for each in going]
    return _step(wanted, now, Action.BACKENDS, f"backends of {wanted.version}: {', '.join(marks)}")


# --- what was tried before ---


def _given_up(wanted: Wanted, now: Standing) -> str:
    """Say why just this is not tried again by itself; "" where it was not tried, or is wanted otherwise now."""
    last, version = now.rollout, wanted.version
    if last is None:
        return ""
    if last.candidate == version and last.state.loser is Role.CANDIDATE:
        let_go = {last.state.let_go, *(lane.let_go for lane in last.state.lanes.values())}
        same = last.strategy == wanted.strategy and _same_place(wanted, now, let_go)
        return f"was rolled back (rollout {last.id}: {last.state.reason})" if same else ""
    past = now.past.get(version)
    if last.stable == version and last.origin is Origin.UNDO:  # the strategy of a way back is another one
        same = (past is None or past.strategy == wanted.strategy) and _same_place(wanted, now)
        return f"was undone (rollout {last.id} went back to {last.candidate})" if same else ""
    if past is not None and not past.served:
        same = past.strategy == wanted.strategy and _same_place(wanted, now)
        return f"was rolled back, {past.ended.at:%Y-%m-%d %H:%M} UTC" if same else ""
    return ""


def _same_place(wanted: Wanted, now: Standing, let_go: Collection[str] = ()) -> bool:
    """Say whether the version is wanted where it ran; backends that errors took out of it count as its own."""
    past = now.past.get(wanted.version)
    if wanted.discover is not None:
        return _looked_in(wanted.version, now) in (None, wanted.discover)
    if wanted.endpoints is None:
        return True
    addresses = {each.address for each in wanted.endpoints}
    if wanted.version in now.versions:
        ran = {each.address for each in now.versions[wanted.version].endpoints}
    elif past is not None:
        ran = set(past.addresses)
    else:
        return True
    return addresses.difference(let_go) == ran.difference(let_go)


def _looked_in(version: str, now: Standing) -> Discover | None:
    """Return where the backends of a version were found, None where that is not known."""
    past = now.past.get(version)
    if version in now.versions:
        return now.versions[version].discover
    return None if past is None or past.discovery is None else past.discovery.discover


def _held(wanted: Wanted, now: Standing, why: str) -> Step:
    remedy = "change its endpoints or strategy, name another version, or try again with --retry"
    return _step(wanted, now, Action.HELD, f"{wanted.version} {why}; {remedy}")


# --- a rollout is in progress ---


def _during(wanted: Wanted, now: Standing, current: Rollout, wishes: Wishes) -> tuple[Step, ...]:
    back = current.state.loser is Role.CANDIDATE
    heading = current.stable if back else current.candidate
    if now.queued is not None and not now.queued.fault:
        return (_queued(wanted, now, wishes),)
    if wanted.version == heading:
        if wishes.supersede and _goes_otherwise(wanted, current):
            return (_supersede(wanted, now, current),)
        return (_backends(wanted, now, _on_its_way(wanted, current)),)
    held = "" if wishes.retry else _given_up(wanted, now)
    if held:
        return (_held(wanted, now, held),)
    if wishes.supersede:
        return (_supersede(wanted, now, current),)
    return (_waits(wanted, now, f"a rollout {current.stable} -> {current.candidate} is in progress"),)


def _goes_otherwise(wanted: Wanted, current: Rollout) -> bool:
    return current.state.loser is None and current.strategy != wanted.strategy


def _on_its_way(wanted: Wanted, current: Rollout) -> str:
    if current.state.loser is Role.CANDIDATE:
        return f"gets all traffic back already (rollout {current.id})"
    words = f"is on its way already (rollout {current.id}, {current.state.phase.replace('_', ' ')})"
    if _goes_otherwise(wanted, current):
        return f"{words}, by the strategy that it began with; --supersede begins anew by {wanted.label}"
    return words


def _queued(wanted: Wanted, now: Standing, wishes: Wishes) -> Step:
    assert now.queued is not None, now
    version = now.queued.version
    same = version.endpoints is None or wanted.endpoints is None or set(version.endpoints) == set(wanted.endpoints)
    same = same and (wanted.discover is None or _found_by(version) == wanted.discover)
    if version.name == wanted.version and same and now.queued.strategy == wanted.strategy:
        return _step(wanted, now, Action.NONE, f"{version.name} waits already, and begins when its service is free")
    if wishes.supersede and now.rollout is not None:
        return _supersede(wanted, now, now.rollout)
    return _waits(wanted, now, f"a deployment of {version.name} by {now.queued.by} is queued")


def _found_by(version: Version) -> Discover | None:
    return None if version.discovery is None else version.discovery.discover


def _waits(wanted: Wanted, now: Standing, why: str) -> Step:
    remedy = "wait for its end, abort it, or ask with --supersede"
    return _step(wanted, now, Action.WAITS, f"{wanted.version} cannot begin now: {why}; {remedy}")


def _supersede(wanted: Wanted, now: Standing, current: Rollout) -> Step:
    if current.state.phase in (Phase.DRAINING, Phase.REMOVING) or current.state.loser is Role.CANDIDATE:
        words = f"{wanted.version} begins when rollout {current.id} has ended"
    elif wanted.version == current.stable:
        words = f"rollout {current.id} to {current.candidate} is taken back to {wanted.version}"
    else:
        words = f"rollout {current.id} to {current.candidate} is taken back, and {wanted.version} begins after it"
    return _step(wanted, now, Action.SUPERSEDE, f"{words}, by strategy {wanted.label}")


# --- what is told ---


def _step(wanted: Wanted, now: Standing, action: Action, words: str) -> Step:
    before, after = _before(now), _after(wanted, now)
    leads = now.rollout is not None and now.in_progress and action in (Action.NONE, Action.BACKENDS)
    number = now.rollout.id if leads and now.rollout is not None else None
    return Step("service", now.service, action, words, before, after, rollout=number, wish=wanted)


def _before(now: Standing) -> Mapping[str, Any]:
    versions = {name: _written(placed) for name, placed in now.versions.items()}
    moving = now.rollout.candidate if now.rollout is not None and now.in_progress else None
    queued = now.queued.version.name if now.queued is not None else None
    return {"version": now.stable, "candidate": moving, "queued": queued, "endpoints": versions}


def _written(placed: Placed) -> list[str]:
    return sorted(map(str, placed.staying()))


def _after(wanted: Wanted, now: Standing) -> Mapping[str, Any]:
    placed = now.versions.get(wanted.version)
    endpoints: tuple[Endpoint, ...] = wanted.endpoints or (placed.staying() if placed else ())
    stages = [percent(stage.weight_bp) for stage in wanted.strategy.stages]
    written = sorted(map(str, endpoints))
    return {"version": wanted.version, "endpoints": written, "strategy": wanted.label, "stages": stages}
