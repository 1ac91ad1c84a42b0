"""Holding a service while a change of it is checked and saved; who only tries the change holds nobody up."""

from contextlib import AbstractContextManager

from rollout.controller import Controller
from rollout.ledger import Entry


def held(controller: Controller, service: str, entry: Entry) -> AbstractContextManager[None]:
    """Return what a change is made inside of. Raises Conflict while another one is being saved.

    To check it Envoys are asked, which may take seconds: a rehearsal must not have others refused for so long, nor keep
    the engine from letting a sick backend go.
    """
    return controller.beside(service) if entry.rehearses else controller.alone(service)
