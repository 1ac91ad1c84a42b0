"""All that the API speaks for."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from rollout.access.doorkeeper import Doorkeeper
from rollout.access.strangers import Strangers
from rollout.answered import Answers
from rollout.backends import Backends
from rollout.charts import Charts
from rollout.controller import Controller
from rollout.declaring import Declaring
from rollout.discovering import Discovering
from rollout.feed import Feed
from rollout.ledger import Ledger
from rollout.loaded import LoadedConfig
from rollout.metrics import Failure
from rollout.notify.office import Office
from rollout.operations import Operations
from rollout.rights import Asker
from rollout.store import Chronicle, Store
from xds.cache import Cache


@dataclass(frozen=True, slots=True)
class Moment:
    """When something is looked at: the engine's time, and by address which versions, (service, version), run there."""

    now_s: float
    users: Mapping[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Backstage:
    """The engine and its surroundings. `reload` reads envoy-configs again for who asks, and returns its warnings."""

    controller: Controller
    operations: Operations
    backends: Backends
    ledger: Ledger
    cache: Cache
    store: Store
    failures: Callable[[], Mapping[str, Failure]]
    clock: Callable[[], float]
    reload: Callable[[Asker], Awaitable[tuple[str, ...]]]
    registry: CollectorRegistry
    doorkeeper: Doorkeeper
    feed: Feed
    chronicle: Chronicle
    charts: Charts
    declaring: Declaring
    discovering: Discovering
    office: Office
    answers: Answers = field(default_factory=Answers)
    served: LoadedConfig = field(default_factory=LoadedConfig)
    strangers: Strangers = field(default_factory=Strangers)

    def moment(self) -> Moment:
        """Return this moment; where many services are shown it is looked at once."""
        return Moment(self.clock(), self.controller.users())
