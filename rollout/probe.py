"""How the control plane itself asks a backend whether it is healthy, as a user writes it."""

from datetime import timedelta

from pydantic import Field, model_validator

from rollout.fields import Limit, Spec


class ProbeSpec(Spec):
    """One of: GET `http` (a path, 2xx is healthy), `grpc` (the health service's name of a service, "" for all), `tcp`.

    `port` is another one than the backend's own. Healthy after `healthy` answers in a row, not after `unhealthy` ones.
    """

    http: str | None = None
    grpc: str | None = None
    tcp: bool = False
    port: int | None = Field(default=None, ge=1, le=65535)
    host: str = ""
    interval: Limit = timedelta(seconds=1)
    timeout: Limit = timedelta(seconds=1)
    healthy: int = Field(default=1, ge=1, le=20)
    unhealthy: int = Field(default=3, ge=1, le=20)

    @model_validator(mode="after")
    def _one(self) -> "ProbeSpec":
        if (self.http is not None) + (self.grpc is not None) + self.tcp != 1:
            raise ValueError("give one of http, grpc, tcp: true")
        if self.http is not None and not self.http.startswith("/"):
            raise ValueError(f"http: '{self.http}' is no path; write it as /healthz")
        if self.host and self.http is None:
            raise ValueError("host: is the Host header of `http`")
        return self
