"""The gateway: the real JoinedAnswer, Progress and DecodeWorkers, with placing and legs in the order of Generation."""

from collections import deque
from typing import Any, NamedTuple

import msgspec

from load.worlds.client import Client
from load.worlds.clockwork import CancelledError, Future, Timer
from load.worlds.model import MODEL
from load.worlds.plan import SCHEDULER
from load.worlds.presence import Watch, Watcher
from load.worlds.surroundings import Surroundings
from prfaas.bus.errors import BusError, BusTimeoutError, NoRespondersError, RemoteError
from prfaas.contracts.codes import FINAL_REFUSALS, FailureCode
from prfaas.contracts.to_decode import AskRunning, CancelGenerate, Generate
from prfaas.contracts.to_gateway import (
    Failed,
    Finished,
    GenerateAccepted,
    GenerateEvent,
    GenerateRefused,
    Placement,
    Refusal,
    Tokens,
)
from prfaas.contracts.to_scheduler import Heartbeat, PlaceRequest
from prfaas.contracts.wire import pack_tokens
from prfaas_gateway.decode_probes import DecodeProbes
from prfaas_gateway.decode_watch import ASK_EVERY_S
from prfaas_gateway.decode_workers import DecodeWorker, DecodeWorkers
from prfaas_gateway.generation import (
    DEADLINE_GRACE_S,
    FIRST_BACKOFF_S,
    MAX_BACKOFF_S,
    MAX_MOVES,
    MAX_PLACEMENTS,
)
from prfaas_gateway.home_placement import HomeLimits, HomePlacement
from prfaas_gateway.joined_answer import JoinedAnswer
from prfaas_gateway.openai.progress import EventGapError, Progress
from prfaas_gateway.placing import PATIENCE_WITH_OTHERS_S
from prfaas_gateway.scheduler_contact import SchedulerContact

CONTROL_DEADLINE_S = 5.0
ANSWER_TIMEOUT_S = 1.0
HOME_AFTER_S, HOME_TOKENS, HOME_REQUESTS = 0.5, 8, 2
IDLE_DEADLINE_S = 30.0
WORKER_GRACE_S = 5.0


class EndedError(Exception):
    """End of a request with an error for its client."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class UnansweredError(Exception):
    """A decode worker was handed the request and does not say whether it has begun."""

    def __init__(self, worker: str, code: str) -> None:
        super().__init__(worker)
        self.worker = worker
        self.code = code


class HomeJob(NamedTuple):
    """Parts of a request that HomePlacement looks at."""

    request_id: str
    model: str
    token_ids: tuple[int, ...]
    left_s: float


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
        self.lost = ""
        """Code of the loss of its decode worker or of an event; empty while all is well."""
        self.asked: str | None = None
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
        if event.sequence > self.taken:
            self.lose(FailureCode.EVENTS_LOST)
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
        gone = False
        try:
            question = AskRunning(gateway=self.name, gateway_incarnation=self.incarnation)
            running = await self.world.network.ask(self, worker.name, "running_asked", question, timeout_s=ANSWER_TIMEOUT_S)
        except NoRespondersError:
            gone = self._probes.handle_absence(worker, self.monotonic_s)
        except BusTimeoutError:
            others = self.workers.has_other(worker.name, self.monotonic_s)
            gone = self.connected and self._probes.handle_silence(worker, self.monotonic_s, others=others)
        else:
            taken = self._running().get(worker, {})
            for request_id in self._probes.handle_answer(worker, running, asked, taken, self.monotonic_s):
                self.legs[request_id].lose(FailureCode.EVENTS_LOST)
        if gone:
            self.workers.lose(worker, self.monotonic_s)
            self._lose_silent()

    # ---- one request

    def serve(self, client: Client) -> None:
        client.serve_by(self.spawn(self._serve(client)))

    async def _serve(self, client: Client) -> None:
        request = Generation(self, client)
        try:
            await request.run()
        except EndedError as error:
            client.end(error.code)
        except EventGapError:
            client.end(FailureCode.EVENTS_LOST)
        except CancelledError:
            client.end("left")
        finally:
            if self.alive:
                request.leave()
                self.clients.remove(client)


class Generation:
    """One request on its way through decode workers."""

    def __init__(self, gateway: Gateway, client: Client) -> None:
        self._gateway = gateway
        self._client = client
        self._plan = client.plan
        self._deadline_at = gateway.monotonic_s + client.plan.ttft_deadline_s
        self._answer = JoinedAnswer()
        self._progress = Progress(prompt_tokens=len(client.plan.prompt))
        self._moves = 0
        self._leg: Leg | None = None
        """The leg that was accepted, or is about to be."""

    async def run(self) -> None:
        """Raises EndedError, EventGapError."""
        await self._begin(Leg(self._plan.name, (), self._deadline_at))
        while True:
            assert self._leg is not None
            event = self._answer.take(await self._next())
            if event is None:
                continue
            self._leg.over = isinstance(event, Finished | Failed)
            self._progress.accept(event)
            if isinstance(event, Failed):
                raise EndedError(event.code)
            if isinstance(event, Tokens):
                self._leg.has_token = True
            self._client.take(event, self._gateway.clockwork.now_s)
            if isinstance(event, Finished):
                self._client.end(event.finish_reason)
                return

    def leave(self) -> None:
        """Closes the leg, and tells its worker to stop unless it is over."""
        leg, self._leg = self._leg, None
        if leg is None:
            return
        self._gateway.legs.pop(leg.request_id, None)
        self._gateway.home.end(leg.request_id)
        if leg.worker is not None and not leg.over:
            self._cancel(leg.request_id, leg.worker.name)

    async def _next(self) -> Any:
        gateway = self._gateway
        while True:
            leg = self._leg
            assert leg is not None
            limit_s = IDLE_DEADLINE_S if leg.has_token else leg.deadline_at - gateway.monotonic_s + DEADLINE_GRACE_S
            if not leg.events and not leg.lost:
                leg.arrived = Future()
                if not await gateway.wait([leg.arrived], limit_s):
                    raise EndedError(FailureCode.IDLE_DEADLINE if self._answer.token_ids else FailureCode.DEADLINE)
            if leg.events:
                return leg.events.popleft()
            if self._moves >= MAX_MOVES:
                raise EndedError(leg.lost)
            self._moves += 1
            self.leave()
            self._answer.place_again()
            await self._begin(self._placed_again(None))

    async def _begin(self, leg: Leg) -> None:
        avoid: tuple[str, ...] = ()
        while True:
            self._leg = leg
            self._gateway.legs[leg.request_id] = leg
            try:
                await self._accepted(leg, avoid)
                return
            except UnansweredError as error:
                self.leave()
                if self._moves >= MAX_MOVES or leg.deadline_at <= self._gateway.monotonic_s:
                    raise EndedError(error.code) from error
                self._moves += 1
                leg, avoid = self._placed_again(leg.deadline_at), (error.worker,)

    def _placed_again(self, deadline_at: float | None) -> Leg:
        sent = tuple(self._answer.token_ids)
        if not sent:
            deadline_at = self._deadline_at
        elif deadline_at is None:
            deadline_at = self._gateway.monotonic_s + IDLE_DEADLINE_S
        return Leg(f"{self._plan.name}-{self._moves}", sent, deadline_at)

    # ---- placing

    async def _accepted(self, leg: Leg, avoid: tuple[str, ...]) -> None:
        """Follows Generations._accepted, with one request to a line."""
        gateway = self._gateway
        backoff_s = 0.0
        while True:
            code = await self._try_once(leg, avoid)
            if code is None:
                return
            if gateway.monotonic_s >= leg.deadline_at:
                raise EndedError(code)
            backoff_s = min(MAX_BACKOFF_S, max(FIRST_BACKOFF_S, backoff_s * 1.6))
            left_s = leg.deadline_at - gateway.monotonic_s
            await gateway.sleep(max(0.0, min(backoff_s * gateway.world.chance.uniform(0.5, 1.0), left_s)))

    async def _try_once(self, leg: Leg, avoid: tuple[str, ...]) -> str | None:
        """Returns the code of a refusal that may pass; None once a decode worker has accepted."""
        refused_by = list(avoid)
        while True:
            placement = await self._place(leg, refused_by)
            if isinstance(placement, str):
                return placement
            leg.asked = placement.decode_worker
            try:
                answer = await self._hand_over(leg, placement)
            except (Exception, CancelledError):
                self._cancel(leg.request_id, placement.decode_worker)
                raise
            if isinstance(answer, GenerateAccepted):
                self._gateway.accepted(leg, DecodeWorker(placement.decode_worker, answer.incarnation))
                return None
            refused_by.append(placement.decode_worker)
            if answer.code in FINAL_REFUSALS:
                raise EndedError(answer.code)
            if len(refused_by) >= MAX_PLACEMENTS:
                return answer.code

    async def _place(self, leg: Leg, refused_by: list[str]) -> Placement | str:
        """Follows Placing._place: the gateway places short prompts itself while no scheduler answers."""
        return self._place_at_home(leg, refused_by) or await self._ask_scheduler(leg, refused_by)

    def _place_at_home(self, leg: Leg, refused_by: list[str]) -> Placement | None:
        gateway = self._gateway
        now_s = gateway.monotonic_s
        job: Any = HomeJob(leg.request_id, MODEL, self._plan.prompt, leg.deadline_at - now_s)
        return gateway.home.place(job, gateway.scheduler.silent_s(now_s), refused_by, now_s)

    async def _ask_scheduler(self, leg: Leg, refused_by: list[str]) -> Placement | str:
        gateway = self._gateway
        request = PlaceRequest(
            request_id=leg.request_id,
            model=MODEL,
            prompt_tokens=len(self._plan.prompt),
            max_tokens=self._plan.sampling.max_tokens,
            ttft_deadline_s=max(0.0, leg.deadline_at - gateway.monotonic_s),
            refused_by=tuple(refused_by),
        )
        asked_at = gateway.monotonic_s
        answer: Placement | Refusal | None = None
        try:
            patience_s = gateway.scheduler.patience_s(CONTROL_DEADLINE_S)
            answer = await self._ask(leg, SCHEDULER, "place", request, patience_s)
            gateway.scheduler.handle_answer()
        except NoRespondersError:
            gateway.scheduler.handle_absence(asked_at)
        except BusError:
            gateway.scheduler.handle_silence(asked_at)
        if isinstance(answer, Placement) and not gateway.scheduler.takes(answer.term, gateway.monotonic_s):
            answer = None
        if answer is None:
            return self._place_at_home(leg, refused_by) or FailureCode.NO_ANSWER
        if isinstance(answer, Refusal):
            if answer.code in FINAL_REFUSALS:
                raise EndedError(answer.code)
            return answer.code
        return answer

    async def _hand_over(self, leg: Leg, placement: Placement) -> GenerateAccepted | GenerateRefused:
        gateway, plan = self._gateway, self._plan
        generate = Generate(
            request_id=leg.request_id,
            model=MODEL,
            placement=placement,
            token_ids=pack_tokens(plan.prompt),
            sent_token_ids=pack_tokens(leg.sent),
            sampling=plan.sampling,
            reply_to=gateway.name,
            gateway=gateway.name,
            gateway_incarnation=gateway.incarnation,
            ttft_deadline_s=max(0.0, leg.deadline_at - gateway.monotonic_s),
        )
        try:
            other = gateway.workers.has_other(placement.decode_worker, gateway.monotonic_s)
            patience_s = PATIENCE_WITH_OTHERS_S if other else CONTROL_DEADLINE_S
            answer: GenerateAccepted | GenerateRefused = await self._ask(
                leg, placement.decode_worker, "generate", generate, patience_s
            )
        except NoRespondersError as error:
            return GenerateRefused(request_id=leg.request_id, code=FailureCode.NO_ANSWER, message=str(error), retry_after_s=1.0)
        except RemoteError as error:
            raise EndedError(error.code) from error
        except BusError as error:
            raise UnansweredError(placement.decode_worker, FailureCode.NO_ANSWER) from error
        return answer

    async def _ask(self, leg: Leg, whom: str, method: str, message: msgspec.Struct, patience_s: float) -> Any:
        left_s = leg.deadline_at - self._gateway.monotonic_s
        if left_s <= 0:
            raise EndedError(FailureCode.DEADLINE)
        network = self._gateway.world.network
        return await network.ask(self._gateway, whom, method, message, timeout_s=min(left_s, patience_s))

    def _cancel(self, request_id: str, worker: str) -> None:
        message = CancelGenerate(request_id=request_id, reason="given up")
        self._gateway.world.network.tell(self._gateway, worker, "hear_cancel", message)
