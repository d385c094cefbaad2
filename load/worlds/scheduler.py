"""A scheduler: the real SchedulerCore and Leadership behind the subjects and buckets of its shell."""

from typing import Any, cast

from msgspec.structs import replace

from load.worlds.control_bus import ControlBusModel
from load.worlds.plan import PLACE
from load.worlds.presence import Watch, Watcher
from load.worlds.surroundings import Surroundings
from prfaas.bus.errors import RemoteError
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.terms import Role
from prfaas.contracts.to_gateway import Placement, Refusal
from prfaas.contracts.to_scheduler import AttemptEnded, Heartbeat, KVDisagreed, LinkEstimate, PlaceRequest
from prfaas_scheduler.events import AttemptOver, HeartbeatReceived, LinkMeasured, PlacementRequested, SiteDistrusted, WorkerGone
from prfaas_scheduler.leadership.leadership import LOOK_EVERY_S, Leadership
from prfaas_scheduler.leadership.leadership_core import RENEW_EVERY_S
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
        self.leadership = Leadership(self.site, self.name, incarnation, lambda: self.monotonic_s)
        self._bus = cast(Any, ControlBusModel(self, world.network, world.lease_bucket))
        self._acting = False
        self._distrusted: set[str] = set()
        """Sites that were found lying, kept beside the core to judge it by."""

    def start(self) -> None:
        for beat in self.world.presence.read_all(self):
            self.watch.hear(beat)
        self.spawn(self._lead())

    def place(self, request: PlaceRequest) -> Placement | Refusal:
        """Follows SchedulerService._place. Raises RemoteError."""
        if not self.leadership.leads:
            raise RemoteError(FailureCode.NOT_LEADING, f"scheduler {self.name!r} leads no more")
        self.world.reigns.check(self)
        (answered,) = self.core.handle(PlacementRequested(self.monotonic_s, request))
        self.core.validate()
        answer = answered.answer
        if not isinstance(answer, Placement):
            return answer
        self._check_trust(answer)
        return replace(answer, term=self.leadership.term)

    def hear_attempt_ended(self, ended: AttemptEnded) -> None:
        self.core.handle(AttemptOver(self.monotonic_s, ended))
        self.core.validate()

    def hear_disagreement(self, told: KVDisagreed) -> None:
        if told.site != self.world.plan.liar.partition("-")[0]:
            self.world.violations.append(f"{told.site} is honest, and is distrusted")
        self._distrusted.add(told.site)
        self.core.handle(SiteDistrusted(self.monotonic_s, told.site))

    def _check_trust(self, answer: Placement) -> None:
        """Notes a prompt for a site that was found lying, where the own site could have had it. Distrust outlasts a world."""
        if answer.prefill_site in self._distrusted and self.core.fleet.alive[self.site, Role.PREFILL]:
            self.world.violations.append(f"{answer.transfer_id} goes to {answer.prefill_site}, which has lied")

    def hear_link(self, estimate: LinkEstimate) -> None:
        self.core.handle(LinkMeasured(self.monotonic_s, estimate))

    def advance(self) -> None:
        """Lets its clock move, as any event does."""
        try:
            self.core.fleet.advance(self.monotonic_s)
            self.core.validate()
        except AssertionError as error:
            self.clockwork.failed(self, error)

    async def _lead(self) -> None:
        """Follows Leadership.run and SchedulerService._lead: takes requests while it leads, and only then."""
        await self.leadership.open(self._bus)
        while True:
            await self.leadership.look()
            if self.leadership.leads is not self._acting:
                self._acting = not self._acting
                self._turn()
            elif self._acting:
                self.world.reigns.goes_on(self)
            # A leader's looks between two renewals would change nothing.
            await self.sleep(RENEW_EVERY_S if self._acting else LOOK_EVERY_S)

    def _turn(self) -> None:
        if self._acting:
            self.world.reigns.begins(self)
            self.world.network.serve(PLACE, self)
        else:
            self.world.network.cease(PLACE, self)

    def _hear_beat(self, key: str, beat: Heartbeat | None) -> None:
        now_s = self.monotonic_s
        if beat is None:
            self.core.handle(WorkerGone(now_s, key))
            self.core.validate()
            return
        self.core.handle(HeartbeatReceived(now_s, beat))
