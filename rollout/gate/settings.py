"""What a user may set about judging."""

from pydantic import BaseModel, ConfigDict, Field


class Gate(BaseModel):
    """When a candidate fails, and what it must show to pass a stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float = Field(
        default=0.01,
        gt=0.0,
        le=0.2,
        description="The probability, over the whole rollout, of failing a candidate that is as good as stable.",
    )
    min_requests: int = Field(
        default=30, ge=1, description="The candidate's finished requests in a stage before it may pass."
    )
    max_error_increase: float = Field(
        default=0.01, ge=0.0, le=1.0, description="How much higher its error share may be to pass: 0.01 is one in 100."
    )
    max_p99_ratio: float = Field(
        default=1.5, ge=1.0, description="How much longer its p99 latency may be to pass: 1.5 is one and a half times."
    )
    error_ratio_tolerance: float = Field(
        default=1.25,
        ge=1.0,
        le=10.0,
        description="Up to so many times stable's share of bad requests is no reason to fail.",
    )
    cap_nats: float = Field(
        default=3.0,
        gt=0.0,
        description="The most evidence that one look may add, so that one burst cannot fail a candidate.",
    )
    warmup_requests: int = Field(
        default=20,
        ge=0,
        description="The candidate's first requests, whose latency is not judged: connections and caches are cold.",
    )
