"""Whether a strategy can be done to a service: requests have headers and cookies, TCP connections have none."""

from rollout.errors import InvalidSpec
from rollout.spec import Strategy
from rollout.traffic.publisher import Publisher


def check_fits(publisher: Publisher, service: str, strategy: Strategy) -> None:
    """Raise InvalidSpec, with its path, for what only requests can be chosen by, where only TCP proxies lead."""
    if not publisher.takes_tcp_only(service):
        return
    why = f"but only TCP proxies lead to '{service}', and connections can be split by weight alone"
    for number, stage in enumerate(strategy.stages):
        if not stage.weight_bp:
            raise InvalidSpec(f"stages[{number}]: chooses requests, {why}; leave it out")
    if strategy.sticky is not None:
        raise InvalidSpec(f"sticky: keeps requests of a user together, {why}; leave it out")
