"""The gateway: the real JoinedAnswer, Progress and DecodeWorkers, with placing and legs in the order of Generation."""

from collections import deque
from typing import Any

import msgspec

from load.worlds.client import Client
from load.worlds.clockwork import CancelledError, Future, Timer
from load.worlds.model import MODEL
from load.worlds.plan import SCHEDULER
from load.worlds.presence import Watch, Watcher
from load.worlds.surroundings import Surroundings
from prfaas.bus.errors import BusError, NoRespondersError, RemoteError
from prfaas.contracts.codes import FINAL_REFUSALS, FailureCode
from prfaas.contracts.to_decode import CancelGenerate, Generate
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
from prfaas_gateway.decode_workers import DecodeWorker, DecodeWorkers
from prfaas_gateway.generation import (
    DEADLINE_GRACE_S,
    FIRST_BACKOFF_S,
    MAX_BACKOFF_S,
    MAX_MOVES,
    MAX_PLACEMENTS,
)
from prfaas_gateway.joined_answer import JoinedAnswer
from prfaas_gateway.openai.progress import EventGapError, Progress

CONTROL_DEADLINE_S = 5.0
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


class Leg:
    """One placement of a request, with the queue of its events."""

    def __init__(self, request_id: str, sent: tuple[int, ...], deadline_at: float) -> None:
        self.request_id = request_id
        self.sent = sent
        self.deadline_at = deadline_at
        self.events: deque[GenerateEvent] = deque()
        self.arrived: Future[None] = Future()
        self.lost = False
        self.asked: str | None = None
        self.worker: DecodeWorker | None = None
        self.has_token = False
        self.over = False

    def put(self, event: GenerateEvent) -> None:
        if not self.lost:
            self.events.append(event)
        self.arrived.set()

    def lose(self) -> None:
        self.lost = True
        self.arrived.set()


class Gateway(Watcher):
    def __init__(self, world: Surroundings, incarnation: str, **identity: Any) -> None:
        super().__init__(world.clockwork, **identity)
        self.world = world
        self.incarnation = incarnation
        self.legs: dict[str, Leg] = {}
        self.workers = DecodeWorkers(self.site, WORKER_GRACE_S)
        self.watch = Watch(self, self._hear_beat)
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
        self.workers.handle_beat(key, beat, self.monotonic_s)
        self._lose_silent()

    def _lose_silent(self) -> None:
        for worker in self.workers.take_lost(self.monotonic_s):
            for leg in self.legs.values():
                if leg.worker == worker:
                    leg.lose()
        self.workers.validate()
        if self._losing is not None:
            self._losing.cancelled = True
        next_at = self.workers.next_lost_at()
        self._losing = None if next_at is None else self.call_later(next_at - self.monotonic_s + 1e-6, self._lose_silent)

    # ---- one request

    def serve(self, client: Client) -> None:
        self.clients.append(client)
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
                raise EndedError(FailureCode.DECODE_WORKER_LOST)
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
            avoid = ()

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
                leg.worker = DecodeWorker(placement.decode_worker, answer.incarnation)
                self._gateway.workers.handle_acceptance(leg.worker, self._gateway.monotonic_s)
                self._gateway._lose_silent()
                return None
            refused_by.append(placement.decode_worker)
            if answer.code in FINAL_REFUSALS:
                raise EndedError(answer.code)
            if len(refused_by) >= MAX_PLACEMENTS:
                return answer.code

    async def _place(self, leg: Leg, refused_by: list[str]) -> Placement | str:
        request = PlaceRequest(
            request_id=leg.request_id,
            model=MODEL,
            prompt_tokens=len(self._plan.prompt),
            max_tokens=self._plan.sampling.max_tokens,
            ttft_deadline_s=max(0.0, leg.deadline_at - self._gateway.monotonic_s),
            refused_by=tuple(refused_by),
        )
        try:
            answer = await self._ask(leg, SCHEDULER, "place", request)
        except BusError:
            return FailureCode.NO_ANSWER
        if isinstance(answer, Refusal):
            if answer.code in FINAL_REFUSALS:
                raise EndedError(answer.code)
            return answer.code
        assert isinstance(answer, Placement)
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
            answer: GenerateAccepted | GenerateRefused = await self._ask(leg, placement.decode_worker, "generate", generate)
        except NoRespondersError as error:
            return GenerateRefused(request_id=leg.request_id, code=FailureCode.NO_ANSWER, message=str(error), retry_after_s=1.0)
        except RemoteError as error:
            raise EndedError(error.code) from error
        except BusError as error:
            raise UnansweredError(placement.decode_worker, FailureCode.NO_ANSWER) from error
        return answer

    async def _ask(self, leg: Leg, whom: str, method: str, message: msgspec.Struct) -> Any:
        left_s = leg.deadline_at - self._gateway.monotonic_s
        if left_s <= 0:
            raise EndedError(FailureCode.DEADLINE)
        network = self._gateway.world.network
        return await network.ask(self._gateway, whom, method, message, timeout_s=min(left_s, CONTROL_DEADLINE_S))

    def _cancel(self, request_id: str, worker: str) -> None:
        message = CancelGenerate(request_id=request_id, reason="given up")
        self._gateway.world.network.tell(self._gateway, worker, "hear_cancel", message)
