"""What the API says of backends that the fleet does not use because they are unhealthy."""

from rollout.api import models
from rollout.controller import Controller


def unhealthy_view(controller: Controller, service: str) -> list[models.UnhealthyBackend]:
    """Each with why; one is `used` all the same where no other of its version is healthy.

    `marked_by` is the operator who has marked it, null where probes or Envoys find it unhealthy.
    """
    books, found = controller.books, controller.ailing.findings(service)
    versions = [each.name for each in books.versions(service)]
    of = {address: version for version in versions for address in books.addresses(service, version)}
    marked: dict[str, models.UnhealthyBackend] = {
        address: {
            "version": of.get(address),
            "backend": address,
            "why": f"marked by {mark.by}" + (f": {mark.reason}" if mark.reason else ""),
            "marked_by": mark.by,
            "since": mark.at.isoformat(),
            "used": False,
        }
        for (owner, address), mark in sorted(books.marks.items())
        if owner == service
    }
    others: list[models.UnhealthyBackend] = [
        {
            "version": each.version,
            "backend": each.address,
            "why": each.why,
            "marked_by": None,
            "since": None,
            "used": each.kept,
        }
        for each in found
        if each.address not in marked
    ]
    return [*marked.values(), *others]
