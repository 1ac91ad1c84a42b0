"""What would become of a rollout: decided by the machine on what was seen last, and not done."""

from dataclasses import replace

from rollout.controller import Controller, Order
from rollout.machine import advance
from rollout.prospect import follows
from rollout.state import Seen


def foreseen(controller: Controller, service: str, order: Order) -> str:
    """Say what follows from an order, "" for nothing. Raises as Controller.obey."""
    rollout = controller.meant(service, order)
    # What was seen last is judged already: only what the order itself does follows from it.
    last = controller.seen.get(service) or Seen(rollout.state.since_s, controller.observer.connected())
    now_s = max(last.now_s, controller.outside.clock())
    asked = replace(last, now_s=now_s, command=order.command, by=str(order.by), location=order.location, why=order.why)
    following, _ = advance(rollout.strategy, rollout.state, asked)
    return follows(rollout, following)
