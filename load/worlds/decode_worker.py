"""A decode worker: the real DecodeCore, Gateways and BucketKeeperCore, with batch and outbox in the order of its shell."""

import math
from typing import Any

from load.worlds.attempting import Attempts
from load.worlds.clockwork import Future, Process, Timer
from load.worlds.model import EOS_TOKEN, FINGERPRINT, LAYOUT, MODEL, WorldVocabulary
from load.worlds.surroundings import Surroundings
from prfaas.bus.errors import BusError, BusTimeoutError, NoRespondersError
from prfaas.contracts.kv import KVStored
from prfaas.contracts.terms import Role
from prfaas.contracts.to_decode import AskRunning, CancelGenerate, Generate, PrefillProgress
from prfaas.contracts.to_gateway import GenerateAccepted, GenerateRefused, Running
from prfaas.contracts.to_scheduler import AttemptEnded, Heartbeat
from prfaas.engine.protocol import EngineError, SampledToken
from prfaas.transfer.bucket_keeper_core import BucketKeeperCore, Looked, Purged
from prfaas.worker.faults import fault_text
from prfaas_decode_worker.admission import Limits
from prfaas_decode_worker.events import (
    Answer,
    BeginAttempt,
    CancelAsked,
    Emit,
    EndAttempt,
    Event,
    GenerateAsked,
    Instruction,
    Release,
    StepDone,
    StepFailed,
    TellScheduler,
    Tick,
)
from prfaas_decode_worker.gateway_watch import ASK_EVERY_S
from prfaas_decode_worker.gateways import GatewayProcess, Gateways
from prfaas_decode_worker.sent_events import SentEvents
from prfaas_decode_worker.service_core import DecodeCore, Row

TICK_S = 0.1
GATEWAY_TIMEOUT_S = 2.0
HEARTBEAT_S = 1.0
SWEEP_S = 5.0
GRACE_S = 10.0
COMING = 4


class DecodeWorker(Process):
    def __init__(self, world: Surroundings, incarnation: str, **identity: Any) -> None:
        super().__init__(world.clockwork, **identity)
        self.world = world
        self.incarnation = incarnation
        plan = world.plan
        self.core = DecodeCore(
            self.name,
            incarnation,
            MODEL,
            Limits(plan.slots, COMING, plan.waiting, 1024, 1 << 20),
            frozenset({EOS_TOKEN}),
            WorldVocabulary(),
            LAYOUT.total_bytes,
        )
        self.attempts = Attempts(self, incarnation, world, self.handle)
        self.keeper = BucketKeeperCore(GRACE_S)
        self.samplers: dict[str, int] = {}
        """Draws of each request's random state."""
        self._gateways = Gateways()
        self._sent = SentEvents()
        self._answers: dict[str, GenerateAccepted | GenerateRefused] = {}
        self._work: Future[None] = Future()
        self._ticker: Timer | None = None
        self._ticks_at = 0.0
        self._watching = False

    def start(self) -> None:
        self.spawn(self._batch())
        self.call_later(SWEEP_S * self.world.chance.random(), self._sweep)
        self._beat()

    # ---- what comes in

    def generate(self, generate: Generate) -> GenerateAccepted | GenerateRefused:
        self.handle(GenerateAsked(self.monotonic_s, generate))
        return self._answers.pop(generate.request_id)

    def hear_cancel(self, cancel: CancelGenerate) -> None:
        request = self.core.requests.get(cancel.request_id)
        on_time = self.clockwork.now_s > self.wakes_at_s + 2 * TICK_S
        late = request is not None and not request.has_token and self.monotonic_s > request.first_token_due_at + 2 * TICK_S
        if late and on_time:
            self.world.violations.append(f"{cancel.request_id} waits at {self.name} after its deadline")
        self.handle(CancelAsked(self.monotonic_s, cancel.request_id))
        if cancel.request_id in self.core.requests:
            self.world.violations.append(f"{cancel.request_id} was cancelled and is still at {self.name}")

    def running_asked(self, asked: AskRunning) -> Running:
        events = {
            request_id: request.events_sent
            for request_id, request in self.core.requests.items()
            if _gateway_of(request.generate) == GatewayProcess(asked.gateway, asked.gateway_incarnation)
        }
        for request_id, sequence in asked.resend.items():
            for emit in self._sent.since(request_id, sequence, asked.gateway):
                self.world.network.tell(self, emit.reply_to, "hear_event", self.name, emit.event)
        return Running(incarnation=self.incarnation, events=events)

    def hear_progress(self, prefill_site: str, progress: PrefillProgress) -> None:
        self.attempts.hear(prefill_site, progress)

    def stored_asked(self, nuid: str) -> KVStored | None:
        receiver = self.attempts.receivers.get(nuid)
        return None if receiver is None or receiver.closed else receiver.stored()

    def connection_lost(self) -> None:
        """Does nothing: what is lost shows when the connection is back."""

    def connection_restored(self) -> None:
        for receiver in list(self.attempts.receivers.values()):
            receiver.connection_restored()

    # ---- the core

    def handle(self, event: Event) -> None:
        for order in self.core.handle(event):
            self._carry_out(order)
        self.core.validate()
        self.core.deaths.validate()
        self._sent.validate()
        self._tick_when_due()
        if self.core.requests and not self._watching:
            self._watching = True
            self.spawn(self._watch_gateways())

    def _carry_out(self, order: Instruction) -> None:
        match order:
            case Answer(request_id, answer):
                self._answers[request_id] = answer
            case BeginAttempt():
                self.attempts.begin(order)
            case EndAttempt():
                self.attempts.end(order)
            case Emit(reply_to, event):
                self._sent.keep(order, self.monotonic_s)
                self.world.network.tell(self, reply_to, "hear_event", self.name, event)
                self._work.set()
            case Release():
                self._sent.end(order.request_id, self.monotonic_s)
                self.samplers.pop(order.request_id, None)
                self.attempts.release(order.request_id)
            case TellScheduler(AttemptEnded() as ended):
                for scheduler in self.world.plan.schedulers:
                    self.world.network.tell(self, scheduler, "hear_attempt_ended", ended)

    def _tick_when_due(self) -> None:
        """Ticks at the first multiple of TICK_S at which a request is too late: other ticks change nothing."""
        due_at = min((each.first_token_due_at for each in self.core.requests.values() if not each.has_token), default=None)
        if due_at is None:
            return
        ticks = max(1, math.ceil((due_at - self.monotonic_s) / TICK_S))
        tick_at = self.monotonic_s + ticks * TICK_S
        if self._ticker is None or tick_at < self._ticks_at:
            if self._ticker is not None:
                self._ticker.cancelled = True
            self._ticks_at = tick_at
            self._ticker = self.call_later(ticks * TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        self.handle(Tick(self.monotonic_s))

    # ---- the batch

    async def _batch(self) -> None:
        while True:
            await self._work
            self._work = Future()
            while rows := self.core.rows():
                tokens: list[tuple[str, SampledToken]] = []
                failed: list[tuple[str, Exception]] = []
                for row in rows:
                    try:
                        tokens.append((row.request_id, SampledToken(token_id=self._step(row))))
                    except Exception as error:
                        failed.append((row.request_id, error))
                await self.sleep(self.world.plan.step_s * (0.9 + 0.2 * self.world.chance.random()))
                if tokens:
                    self.handle(StepDone(self.monotonic_s, tuple(tokens)))
                for request_id, fault in failed:
                    self.handle(StepFailed(self.monotonic_s, (request_id,), fault_text(fault)))

    def _step(self, row: Row) -> int:
        """Raises EngineError where the request is poisonous, KeyError without a verified sequence."""
        draws = self.samplers.get(row.request_id, 0)
        self.samplers[row.request_id] = draws + 1
        if draws == 1 and self.world.poison_of(row.request_id) == "bad_step":
            raise EngineError("the step is not finite")
        return self.attempts.sequences[row.request_id].step(row.token_id, draws, forbid_eos=row.forbid_eos)

    # ---- gateways

    async def _watch_gateways(self) -> None:
        """Follows GatewayWatch, which asks while there are requests."""
        while self.core.requests:
            present = sorted({_gateway_of(request.generate) for request in self.core.requests.values()})
            self._gateways.forget_others(present)
            for gateway in present:
                if await self._is_gone(gateway):
                    for request_id, request in list(self.core.requests.items()):
                        if _gateway_of(request.generate) == gateway:
                            self.handle(CancelAsked(self.monotonic_s, request_id))
            await self.sleep(ASK_EVERY_S)
        self._watching = False

    async def _is_gone(self, gateway: GatewayProcess) -> bool:
        try:
            process = f"{gateway.name}.{gateway.incarnation}"
            await self.world.network.ask(self, process, "alive_asked", timeout_s=GATEWAY_TIMEOUT_S)
        except NoRespondersError:
            return self._gateways.handle_absence(gateway, self.monotonic_s)
        except BusTimeoutError:
            return self._gateways.handle_silence(gateway, self.monotonic_s)
        except BusError:
            return False
        self._gateways.handle_answer(gateway, self.monotonic_s)
        return False

    # ---- the bucket, and heartbeats

    def _sweep(self) -> None:
        store = self.world.store
        if self.connected and store.available:
            for order in self.keeper.handle(Looked(store.look(), self.monotonic_s)):
                self.keeper.handle(Purged(order.subject, store.purge(order.subject)))
            self.keeper.validate()
        self.call_later(SWEEP_S, self._sweep)

    def _beat(self) -> None:
        admission = self.core.admission
        beat = Heartbeat(
            site=self.site,
            worker=self.name,
            incarnation=self.incarnation,
            role=Role.DECODE,
            model=MODEL,
            fingerprint=FINGERPRINT,
            max_context_tokens=1024,
            running=len(admission.batch),
            slots=admission.limits.slots,
            waiting=len(admission.requests) - len(admission.batch),
            waiting_limit=admission.limits.coming + admission.limits.waiting,
        )
        self.world.presence.put(self, beat)
        self.call_later(HEARTBEAT_S, self._beat)


def _gateway_of(generate: Generate) -> GatewayProcess:
    return GatewayProcess(generate.gateway, generate.gateway_incarnation)
