"""Counts of a span -> the tally that the judge takes: errors of the kind that is asked for, latencies by edges."""

from collections.abc import Mapping
from typing import assert_never

from rollout.gate.sample import Past, Quantile, Tally
from rollout.gate.settings import Errors
from rollout.metrics.counts import Counts


def tally(counts: Counts, past: Past, errors: Errors) -> Tally:
    """Timeouts and refused requests are slow and late beyond every edge; as 5xx they are among the errors already.

    With `Errors.GRPC` the requests are those that ended with a gRPC status, and none other says anything of errors.
    """
    match errors:
        case Errors.HTTP:
            requests, bad = counts.requests, counts.errors
        case Errors.GRPC:
            requests, bad = counts.grpc_answers, counts.grpc_faults
        case _:
            assert_never(errors)
    return Tally(
        requests=requests,
        errors=min(bad, requests),
        timed=counts.timed,
        slow=_beyond(counts, past.slow_ms),
        late=_beyond(counts, past.late_ms),
        retries=counts.retries,
        timeouts=counts.timeouts,
        started=counts.started,
        active=counts.active,
    )


def _beyond(counts: Counts, edges_ms: Mapping[Quantile, float]) -> dict[Quantile, int]:
    untimed = counts.timeouts + counts.refused
    return {quantile: counts.latency.above(edge_ms) + untimed for quantile, edge_ms in edges_ms.items()}
