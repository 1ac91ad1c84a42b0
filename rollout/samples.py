"""Recorded or made-up looks as JSON: {"t": 1, "strata": [...]} each, and the history {"history": {...}} before them."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, from_json

from rollout.errors import InvalidSpec
from rollout.gate.sample import Look, Past, Quantile, Stratum, Tally

_PAST = Past()
_WORDS = {
    "Extra inputs are not permitted": "is nothing that is known here; look for a typing error",
    "Field required": "is missing",
    "Input should be a valid integer": "must be a whole number",
    "Input should be an object": "must be an object",
    "Input should be": "must be",
}


def _whole(value: object) -> object:
    """JSON has one kind of number: 10.0 is 10, and many programs write it so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Slow(_Part):
    p75: Count = 0
    p95: Count = 0
    p99: Count = 0
    p999: Count = 0


class _Late(_Part):
    p95: Count = 0
    p99: Count = 0


class _Counts(_Part):
    requests: Count
    errors: Count
    slow: _Slow = _Slow()
    late: _Late = _Late()


class _Stratum(_Part):
    weight_bp: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=10_000)]
    stable: _Counts
    candidate: _Counts


class _Sample(_Part):
    t: float
    strata: tuple[_Stratum, ...]


class _Shares(_Part):
    errors: Share = _PAST.errors
    p95: Share = _PAST.slow[Quantile.P95]
    p95_late: Share = _PAST.late[Quantile.P95]
    p99: Share = _PAST.slow[Quantile.P99]
    p99_late: Share = _PAST.late[Quantile.P99]
    phi: float = Field(default=_PAST.phi, ge=1, le=1e6)


class _History(_Part):
    history: _Shares


def is_history(line: bytes) -> bool:
    """Say whether a line is a history rather than a look. Raises InvalidSpec where it is no JSON object."""
    try:
        document = from_json(line)
    except ValueError as error:
        raise InvalidSpec(f"is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidSpec(f"must be a JSON object, but is {_shortened(document)}")
    return "history" in document


def parse_history(line: bytes) -> Past:
    """What was known of stable before the looks. Raises InvalidSpec with the path of each fault."""
    shares = _parsed(_History, line).history
    return Past(
        errors=shares.errors,
        slow={**_PAST.slow, Quantile.P95: shares.p95, Quantile.P99: shares.p99},
        late={Quantile.P95: shares.p95_late, Quantile.P99: shares.p99_late},
        phi=shares.phi,
        slow_phi=shares.phi,
    )


def parse_look(line: bytes, past: Past) -> Look:
    """One look. Raises InvalidSpec with the path of each fault.

    Slow and late requests that are not given are none: all requests were timed.
    """
    sample = _parsed(_Sample, line)
    strata = (_stratum(each, f"strata[{number}]") for number, each in enumerate(sample.strata))
    return Look(sample.t, tuple(strata), past)


def _stratum(given: _Stratum, path: str) -> Stratum:
    stable = _tally(given.stable, f"{path}.stable")
    return Stratum(given.weight_bp, stable, _tally(given.candidate, f"{path}.candidate"))


def _tally(given: _Counts, path: str) -> Tally:
    slow, late = given.slow.model_dump(), given.late.model_dump()
    counts = {"errors": given.errors}
    counts |= {f"slow.{name}": count for name, count in slow.items()}
    counts |= {f"late.{name}": count for name, count in late.items()}
    for name, count in counts.items():
        if count > given.requests:
            raise InvalidSpec(f"{path}.{name}: {count} is more than its {given.requests} requests")
    return Tally(
        requests=given.requests,
        errors=given.errors,
        timed=given.requests,
        slow={Quantile(name): count for name, count in slow.items()},
        late={Quantile(name): count for name, count in late.items()},
    )


_Parsed = TypeVar("_Parsed", bound=_Part)


def _parsed(part: type[_Parsed], line: bytes) -> _Parsed:
    try:
        return part.model_validate_json(line)
    except ValidationError as error:
        raise InvalidSpec("; ".join(map(_fault, error.errors(include_url=False)))) from error


def _fault(fault: ErrorDetails) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    message = fault["msg"]
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    if fault["type"] in ("missing", "extra_forbidden"):
        return f"{path}: {message}"
    return f"{path}: {message}, but is {_shortened(fault['input'])}"


def _shortened(value: object) -> str:
    return repr(value)[:80]
