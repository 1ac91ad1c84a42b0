"""What a hook is told: a moment of a rollout as JSON, the key that makes a repetition harmless, and the signature."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from rollout.hooks import Call, Hook, HookKind
from rollout.machine import share_bp
from rollout.record import Rollout
from rollout.state import Role

KEY_HEADER = "Idempotency-Key"
SIGNATURE_HEADER = "X-Rollout-Signature"
REASON_CHARACTERS = 1000
VARIABLE_BYTES = 100_000  # of the environment; the kernel runs nothing with one of 128 KiB
_KEY_DIGITS = 40

Value = str | int | float | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a rollout's versions run, as HOST:PORT@region/zone."""

    stable: tuple[str, ...] = ()
    candidate: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """What one call says. `key` is the same for each try, and for the same call after a restart."""

    hook: Hook
    key: str
    said: Mapping[str, Value]

    def body(self, attempt: int) -> bytes:
        """Return it as JSON."""
        return json.dumps({**self.said, "idempotency_key": self.key, "attempt": attempt}).encode()

    def environment(self, attempt: int) -> Mapping[str, str]:
        """Return it as a command gets it beside the JSON on stdin: ROLLOUT_SERVICE and so on; not what is too long."""
        names = {"rollout": "id"}
        values = {**self.said, "idempotency_key": self.key, "attempt": attempt}
        texts = {f"ROLLOUT_{names.get(name, name).upper()}": _written(value) for name, value in values.items()}
        return {name: text for name, text in texts.items() if len(text.encode()) <= VARIABLE_BYTES}


def message(rollout: Rollout, hook: Hook, key: str, endpoints: Endpoints, at: datetime) -> Message:
    """Return what a hook is told of a rollout as it stands."""
    state = rollout.state
    said: dict[str, Value] = {
        "service": rollout.service,
        "rollout": rollout.id,
        "stable": rollout.stable,
        "candidate": rollout.candidate,
        "kind": hook.at.value,
        "hook": hook.label,
        "phase": state.phase.value,
        "stage": state.stage,
        "weight_percent": round(share_bp(rollout.strategy, state) / 100, 2),
        "reason": state.reason[:REASON_CHARACTERS],
        "endpoints": endpoints.candidate,
        "at": at.isoformat(timespec="milliseconds"),
    }
    if state.awaited is not None:
        said |= {"awaiting": state.awaited.value, "waiting": state.waiting[:REASON_CHARACTERS]}
    if state.loser is not None:
        stays = state.loser is Role.CANDIDATE
        said["loser"] = rollout.candidate if stays else rollout.stable
        said["loser_endpoints"] = endpoints.candidate if stays else endpoints.stable
    return Message(hook, key, said)


def about(said: Message, call: Call) -> Message:
    """Say which stage may begin, of a call that asks for that: its occasion is "stage", or "wave.stage"."""
    *wave, stage = call.occasion.split(".")
    if not stage:
        return said
    following = {"next_stage": int(stage)} | ({"next_wave": int(wave[0])} if wave else {})
    return replace(said, said={**said.said, **following})


def key_of_call(rollout: Rollout, call: Call, asked_s: float) -> str:
    """Return the key of a call. Who is asked again and again is asked something new each time, at `asked_s`."""
    hook = rollout.strategy.hooks[call.number]
    return _key(rollout, call.key, hook.at, *((f"{asked_s:.3f}",) if hook.asked_again else ()))


def key_of_event(rollout: Rollout, number: int) -> str:
    """Return the key of what one hook is told of a rollout as it stands."""
    # A server that was killed may count its revisions again, with another story.
    return _key(rollout, str(number), HookKind.EVENT, str(rollout.revision), rollout.changed_at.isoformat())


def _key(rollout: Rollout, *parts: str) -> str:
    # The start is in it because ids begin again with a new database.
    whole = (rollout.service, str(rollout.id), rollout.started_at.isoformat(), *parts)
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:_KEY_DIGITS]


def signature(secret: bytes, unix_s: int, body: bytes) -> str:
    """Return a body's signature: the time, and HMAC-SHA256 of "TIME.BODY", so that neither can be another."""
    digest = hmac.new(secret, b"%d.%b" % (unix_s, body), hashlib.sha256).hexdigest()
    return f"t={unix_s},v1={digest}"


def _written(value: Value) -> str:
    text = " ".join(value) if isinstance(value, tuple) else str(value)
    return text.replace("\0", " ")
