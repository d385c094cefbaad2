"""The scheduler: the real SchedulerCore behind the subjects and buckets of its shell."""

from typing import Any

from load.worlds.presence import Watch, Watcher
from load.worlds.surroundings import Surroundings
from prfaas.contracts.to_gateway import Placement, Refusal
from prfaas.contracts.to_scheduler import AttemptEnded, Heartbeat, LinkEstimate, PlaceRequest
from prfaas_scheduler.events import AttemptOver, HeartbeatReceived, LinkMeasured, PlacementRequested, WorkerGone
from prfaas_scheduler.policies.registry import POLICIES, PolicyOptions
from prfaas_scheduler.service_core import SchedulerCore

THRESHOLD_TOKENS = 6


class Scheduler(Watcher):
    def __init__(self, world: Surroundings, incarnation: str, **identity: Any) -> None:
        super().__init__(world.clockwork, **identity)
        self.world = world
        self.incarnation = incarnation
        policy = POLICIES[world.plan.policy](PolicyOptions(threshold_tokens=THRESHOLD_TOKENS, ttft_objective_s=1.0))
        self.core = SchedulerCore(self.site, policy)
        self.watch = Watch(self, self._hear_beat)

    def start(self) -> None:
        for beat in self.world.presence.read_all(self):
            self.watch.hear(beat)

    def place(self, request: PlaceRequest) -> Placement | Refusal:
        (answered,) = self.core.handle(PlacementRequested(self.monotonic_s, request))
        self.core.validate()
        return answered.answer

    def hear_attempt_ended(self, ended: AttemptEnded) -> None:
        self.core.handle(AttemptOver(self.monotonic_s, ended))
        self.core.validate()

    def hear_link(self, estimate: LinkEstimate) -> None:
        self.core.handle(LinkMeasured(self.monotonic_s, estimate))

    def advance(self) -> None:
        """Lets its clock move, as any event does."""
        try:
            self.core.fleet.advance(self.monotonic_s)
            self.core.validate()
        except AssertionError as error:
            self.clockwork.failed(self, error)

    def _hear_beat(self, key: str, beat: Heartbeat | None) -> None:
        now_s = self.monotonic_s
        if beat is None:
            self.core.handle(WorkerGone(now_s, key))
            self.core.validate()
            return
        self.core.handle(HeartbeatReceived(now_s, beat))
