"""The gateway: the real DecodeWorkers, DecodeProbes, HomePlacement and SchedulerContact, and the legs of its requests."""

from collections import deque
from typing import Any

from load.worlds.client import Client
from load.worlds.clockwork import Future, Timer
from load.worlds.presence import Watch, Watcher
from load.worlds.surroundings import Surroundings
from prfaas.bus.errors import BusTimeoutError, NoRespondersError
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_decode import AskRunning
from prfaas.contracts.to_gateway import (
    Failed,
    Finished,
    GenerateEvent,
)
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas_gateway.decode_probes import DecodeProbes
from prfaas_gateway.decode_watch import ASK_EVERY_S
from prfaas_gateway.decode_workers import DecodeWorker, DecodeWorkers
from prfaas_gateway.home_placement import HomeLimits, HomePlacement
from prfaas_gateway.scheduler_contact import SchedulerContact

ANSWER_TIMEOUT_S = 0.75
HOME_AFTER_S, HOME_TOKENS, HOME_REQUESTS = 0.5, 8, 2
WORKER_GRACE_S = 5.0


class Leg:
    """One placement of a request, with the queue of its events."""

    def __init__(self, request_id: str, sent: tuple[int, ...], deadline_at: float) -> None:
        self.request_id = request_id
        self.sent = sent
        self.deadline_at = deadline_at
        self.events: deque[GenerateEvent] = deque()
        self.arrived: Future[None] = Future()
        self.taken = 0
        """Events that have come: the next one has this number."""
        self.has_gap = False
        self.lost = ""
        """Code of the loss of its decode worker or of an event; empty while all is well."""
        self.asked: str | None = None
        self.hand_overs = 0
        self.worker: DecodeWorker | None = None
        self.has_token = False
        self.ended = False
        """True when the last event has come."""
        self.over = False
        """True when the last event was handed on."""

    def put(self, event: GenerateEvent) -> None:
        """Follows EventQueue.put."""
        if event.sequence < self.taken:
            return
        self.has_gap = event.sequence > self.taken
        if self.has_gap:
            return
        self.taken += 1
        self.ended = isinstance(event, Finished | Failed)
        if not self.lost:
            self.events.append(event)
        self.arrived.set()

    def lose(self, code: str) -> None:
        self.lost = self.lost or code
        self.arrived.set()


class Gateway(Watcher):
    def __init__(self, world: Surroundings, incarnation: str, **identity: Any) -> None:
        super().__init__(world.clockwork, **identity)
        self.world = world
        self.incarnation = incarnation
        self.legs: dict[str, Leg] = {}
        self.workers = DecodeWorkers(self.site, WORKER_GRACE_S)
        self.watch = Watch(self, self._hear_beat)
        self.scheduler = SchedulerContact()
        self.home = HomePlacement(self.site, HomeLimits(after_s=HOME_AFTER_S, tokens=HOME_TOKENS, requests=HOME_REQUESTS))
        self._probes = DecodeProbes()
        self._watching = False
        self._losing: Timer | None = None
        self.clients: list[Client] = []
        """Clients whose connections are open."""

    def start(self) -> None:
        for beat in self.world.presence.read_all(self):
            self.watch.hear(beat)

    # ---- what comes in

    def alive_asked(self) -> str:
        return self.incarnation

    def hear_event(self, worker: str, event: GenerateEvent) -> None:
        leg = self.legs.get(event.request_id)
        if leg is not None and leg.asked == worker:
            leg.put(event)

    def _hear_beat(self, key: str, beat: Heartbeat | None) -> None:
        self.home.handle_beat(key, beat, self.monotonic_s)
        self.workers.handle_beat(key, beat, self.monotonic_s)
        self._lose_silent()

    def _lose_silent(self) -> None:
        for worker in self.workers.take_lost(self.monotonic_s):
            for leg in self.legs.values():
                if leg.worker == worker:
                    leg.lose(FailureCode.DECODE_WORKER_LOST)
        self.workers.validate()
        if self._losing is not None:
            self._losing.cancelled = True
        next_at = self.workers.next_lost_at()
        self._losing = None if next_at is None else self.call_later(next_at - self.monotonic_s + 1e-6, self._lose_silent)

    # ---- decode workers

    def accepted(self, leg: Leg, worker: DecodeWorker) -> None:
        """Takes that a decode worker has a leg, and asks it how far it is from now on."""
        leg.worker = worker
        self.workers.handle_acceptance(worker, self.monotonic_s)
        self._lose_silent()
        if not self._watching:
            self._watching = True
            self.spawn(self._watch_decode_workers())

    def _running(self) -> dict[DecodeWorker, dict[str, int]]:
        """Follows InFlight.of_workers."""
        found: dict[DecodeWorker, dict[str, int]] = {}
        for leg in self.legs.values():
            if leg.worker is not None and not leg.ended:
                found.setdefault(leg.worker, {})[leg.request_id] = leg.taken
        return found

    async def _watch_decode_workers(self) -> None:
        """Follows DecodeWatch, which asks while there are requests."""
        while present := self._running():
            self._probes.forget_others(present)
            for worker, asked in present.items():
                await self._look(worker, asked)
            await self.sleep(ASK_EVERY_S)
        self._watching = False

    async def _look(self, worker: DecodeWorker, asked: dict[str, int]) -> None:
        gone, asked_at = False, self.monotonic_s
        try:
            gaps = {request_id for request_id, leg in self.legs.items() if leg.has_gap}
            resend = self._probes.resend(asked, gaps)
            question = AskRunning(gateway=self.name, gateway_incarnation=self.incarnation, resend=resend)
            running = await self.world.network.ask(self, worker.name, "running_asked", question, timeout_s=ANSWER_TIMEOUT_S)
        except NoRespondersError:
            gone = self._probes.handle_absence(worker, self.monotonic_s)
        except BusTimeoutError:
            others = self.workers.has_other(worker.name, self.monotonic_s)
            gone = self.connected and self._probes.handle_silence(worker, asked_at, self.monotonic_s, others=others)
        else:
            self._probes.patience_with(worker).handle_answer(self.monotonic_s - asked_at)
            taken = self._running().get(worker, {})
            for request_id in self._probes.handle_answer(worker, running, asked, taken, self.monotonic_s):
                self.legs[request_id].lose(FailureCode.EVENTS_LOST)
        if gone:
            self.workers.lose(worker, self.monotonic_s)
            self._lose_silent()
