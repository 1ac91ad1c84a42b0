"""Whether the audit log's newest rows are as they were written: looked at once, when a server starts."""

import structlog

from rollout.errors import Unavailable
from rollout.store import Chronicle

LOOKED_AT = 1_000  # rows: all of a long log would take seconds, and `rollout audit verify` does that


async def is_broken(chronicle: Chronicle) -> bool:
    """Look at the log's end, beside whoever writes. False also where it cannot be read, which the server's log says."""
    log = structlog.get_logger()
    try:
        found = await chronicle.verified(newest=LOOKED_AT)
    except Unavailable as error:
        log.warning("audit log not verified", reason=str(error))
        return False
    if found.broken is not None:
        what = f"row {found.broken}: {found.why}; see `rollout audit verify`, and compare it with a backup"
        log.error("audit log broken", reason=what)
    return found.broken is not None
