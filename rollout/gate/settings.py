"""What a user may set about judging: each with its unit, its range and its meaning."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

Metadata = Mapping[str, Any]


class Errors(StrEnum):
    """What counts as an error: an HTTP answer of 5xx, or a gRPC status that is the server's fault."""

    HTTP = "http"
    GRPC = "grpc"


class BadHost(StrEnum):
    """What to do when one backend of the candidate has all its errors."""

    ROLLBACK = "rollback"
    DRAIN = "drain"


class WhenBlind(StrEnum):
    """What to do when data has been missing for too long."""

    PAUSE = "pause"
    ROLLBACK = "rollback"
    IGNORE = "ignore"  # judge by the Envoys and checks that can be read, and say which are left out


def _share(above: float, to: float, meaning: str) -> Metadata:
    return {"unit": "share", "above": above, "to": to, "meaning": meaning}


def _number(least: float, to: float, meaning: str) -> Metadata:
    return {"unit": "number", "least": least, "to": to, "meaning": meaning}


def _duration(to_s: float, meaning: str, least_s: float = 0.0) -> Metadata:
    return {"unit": "duration", "least": least_s, "to": to_s, "meaning": meaning}


def _word(meaning: str) -> Metadata:
    return {"unit": "word", "meaning": meaning}


@dataclass(frozen=True, slots=True)
class Gate:
    """When a candidate fails, and what it must show to pass a stage. Raises ValueError for a value out of its range.

    Shares are parts of 1 (0.01 is one in 100), durations seconds; a strategy's file has `1%` and `10s` for them, and
    leaves out the `_s`.
    """

    alpha: float = field(
        default=0.01,
        metadata=_share(0, 0.2, "The probability, over a whole rollout, of failing a candidate that is no worse."),
    )
    beta: float = field(
        default=0.05,
        metadata=_share(0, 0.5, "The probability, in each stage, of passing a candidate that is worse by the margin."),
    )
    margin: float = field(
        default=0.005,
        metadata=_share(
            0, 0.5, "How many more requests may go wrong, of all requests of the service, after the next step."
        ),
    )
    margin_ratio: float = field(
        default=0.25,
        metadata=_number(
            0, 10, "The margin is at least so many times stable's share of errors before; in latency, of late requests."
        ),
    )
    margin_budget_s: float = field(
        default=0.0,
        metadata=_duration(3600, "Tighten a stage's margin to what can be shown in this time; 0s leaves it as it is."),
    )
    tolerance: float = field(
        default=1.25,
        metadata=_number(1, 10, "Up to so many times stable's share of bad requests is no reason to fail."),
    )
    slow_cluster: float = field(
        default=2.0,
        metadata=_number(
            1,
            100,
            "Slow requests come in clusters of up to so many: a pause hits all that a backend holds. Against a "
            "candidate they count that much less.",
        ),
    )
    latency_tolerance: float = field(
        default=1.25,
        metadata=_number(1, 10, "To pass, the candidate's latencies may be so many times stable's at p95 and p99."),
    )
    resolution_s: float = field(
        default=0.0015,
        metadata=_duration(60, "A difference in latency of less is none; Envoy counts whole milliseconds."),
    )
    max_retry_increase: float = field(
        default=0.01,
        metadata=_share(0, 1, "How many more retries a request the candidate may need to pass; retries hide errors."),
    )
    errors: Errors = field(
        default=Errors.HTTP,
        metadata=_word("What an error is: `http`: 5xx; `grpc`: a grpc-status that is the server's fault."),
    )
    doubt: float = field(
        default=5.0,
        metadata=_number(
            1, 1e6, "From so much evidence against it on, a candidate passes only when clearly more speaks for it."
        ),
    )
    cap_nats: float = field(
        default=3.0,
        metadata=_number(0.01, 100, "The most that one look adds to a bet, so that one burst decides nothing."),
    )
    restart_s: float = field(
        default=60.0,
        metadata=_duration(86_400, "A new test starts so often beside the others, for what turns bad late.", 1.0),
    )
    warmup_s: float = field(
        default=10.0,
        metadata=_duration(
            3600, "So long after its first request a new version is cold: only gross errors count, latency does not."
        ),
    )
    warmup_errors: float = field(
        default=0.05,
        metadata=_share(0, 1, "While it is cold: errors up to this much above stable's are no reason to fail."),
    )
    hang_alarms: float = field(
        default=1e-5,
        metadata=_share(0, 0.1, "The hang guard's false alarms a look: it fails a candidate that swallows requests."),
    )
    hang_guard: bool = field(
        default=True, metadata=_word("Whether there is a hang guard; not for streams that live for minutes.")
    )
    slo_errors: float | None = field(
        default=None,
        metadata=_share(0, 1, "Above this error share a stage holds, whatever stable does; unset: no such limit."),
    )
    slo_alpha: float = field(
        default=0.01, metadata=_share(0, 0.2, "The probability of holding a candidate that meets `slo_errors`.")
    )
    hold_timeout_s: float | None = field(
        default=None,
        metadata=_duration(
            86_400, "A candidate that has been above `slo_errors` for so long fails; unset: it never does."
        ),
    )
    alone_timeout_s: float | None = field(
        default=30.0,
        metadata=_duration(
            86_400,
            "At 100 %, where nothing compares: so long above twice stable's errors of before (or these and "
            "the margin), and it fails; null: it never does.",
        ),
    )
    min_rps: float = field(
        default=10.0,
        metadata=_number(
            0, 1e6, "Requests a second that a stage gives the candidate at least, up to 50 %; 0: weights as written."
        ),
    )
    bad_rps: float = field(
        default=0.2,
        metadata=_number(0, 1e6, "Bad requests a second that the margin allows at least; it matters at low traffic."),
    )
    error_budget: int | None = field(
        default=None,
        metadata=_number(
            1,
            1e9,
            "A rollout that has cost so many more bad requests than stable would have is rolled back; chance alone "
            "costs some, the more the busier and the worse both are.",
        ),
    )
    bad_host: BadHost = field(
        default=BadHost.ROLLBACK,
        metadata=_word("When one backend has all errors: `rollback`, or `drain` that one and go on."),
    )
    blind_timeout_s: float = field(
        default=60.0,
        metadata=_duration(86_400, "So long data may be missing before `when_blind` is done; 0s: for ever."),
    )
    when_blind: WhenBlind = field(
        default=WhenBlind.PAUSE,
        metadata=_word("When data is missing for too long: `pause`, `rollback`, or `ignore` who cannot be read."),
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if value is not None and not isinstance(value, str | bool):
                _check(setting.name, setting.metadata, value)


def _check(name: str, metadata: Mapping[str, Any], value: float) -> None:
    above, least, to = metadata.get("above"), metadata.get("least"), metadata["to"]
    if (above is not None and not value > above) or (least is not None and not value >= least) or not value <= to:
        limits = f"above {above:g}" if above is not None else f"at least {least:g}"
        raise ValueError(f"{name.removesuffix('_s')} must be {limits} and at most {to:g}, but is {value:g}")
