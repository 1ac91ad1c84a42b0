"""What can go wrong in the rollout engine.

RolloutError
├── InvalidSpec    the user's fault: bad strategy, endpoint, version name...; says path, value and remedy
├── Conflict       the user's fault: right in itself, but not now (a second rollout, the last healthy backend)
├── Outdated       the user's fault: what it was made up for has changed since; says what is there now
├── Unknown        the user's fault: no such service, version, endpoint or rollout
├── NotIdentified  the user's fault: nobody knows who asks; says how to show it
├── NotAllowed     the user's fault: who asks may not; says which role is needed
├── TooMany        the user's fault: wrong too often; says how long to wait
├── Unavailable    the world's fault: an Envoy's admin, the disk; tried again by the next reconcile
├── Reused         in `api.answers`, an InvalidSpec: the key of a change was used for another one before
├── Rehearsed      nobody's fault: what would be done for one who only wants to know; nothing was changed
└── ApiFault       in `client`: what a server refused, with its problem document
"""


class RolloutError(Exception):
    """Base of all errors of this package. `noted`: the ledger has a row of it."""

    noted = False


class InvalidSpec(RolloutError):
    """What was asked for is wrong in itself."""


class Conflict(RolloutError):
    """What was asked for is not possible in the present state, which is left as it is."""


class Outdated(RolloutError):
    """What was asked for was made up for another state than the present one, which is left as it is."""


class Unknown(RolloutError):
    """What was named does not exist."""


class NotIdentified(RolloutError):
    """Who asks has not shown who they are."""


class NotAllowed(RolloutError):
    """Who asks may not have it."""


class TooMany(RolloutError):
    """Who asks has been wrong too often, and is not heard for `wait_s`."""

    def __init__(self, words: str, wait_s: float) -> None:
        super().__init__(words)
        self.wait_s = wait_s


class Unavailable(RolloutError):
    """Something outside did not answer; the next reconcile tries again."""


class Rehearsed(RolloutError):
    """What would be done is said, and not done; `changes` says whether anything would be."""

    def __init__(self, words: str, *, changes: bool = True) -> None:
        super().__init__(words)
        self.changes = changes
