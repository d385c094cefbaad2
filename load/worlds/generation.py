"""One client's request at the gateway: placed, accepted, moved, in the order of Generation and Placing."""

from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from load.worlds.client import Client
from load.worlds.clockwork import CancelledError, Future
from load.worlds.gateway import Gateway, Leg
from load.worlds.model import MODEL
from load.worlds.plan import PLACE
from prfaas.bus.errors import BusError, NoRespondersError, RemoteError
from prfaas.contracts.codes import FINAL_REFUSALS, FailureCode
from prfaas.contracts.to_decode import CancelGenerate, Generate
from prfaas.contracts.to_gateway import (
    Failed,
    Finished,
    GenerateAccepted,
    GenerateRefused,
    Placement,
    Refusal,
    Tokens,
)
from prfaas.contracts.to_scheduler import PlaceRequest
from prfaas.contracts.wire import pack_tokens
from prfaas_gateway.decode_workers import DecodeWorker
from prfaas_gateway.generation import (
    DEADLINE_GRACE_S,
    FIRST_BACKOFF_S,
    MAX_BACKOFF_S,
    MAX_MOVES,
    MAX_PLACEMENTS,
)
from prfaas_gateway.joined_answer import JoinedAnswer
from prfaas_gateway.openai.progress import EventGapError, Progress
from prfaas_gateway.placing import PATIENCE_WITH_OTHERS_S

CONTROL_DEADLINE_S = 5.0
IDLE_DEADLINE_S = 30.0


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
                assert self._answer.started is not None
                self._client.sites.add(self._answer.started.prefill_site)
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
            avoid = (leg.worker.name,) if leg.worker is not None and leg.lost == FailureCode.DECODE_WORKER_LOST else ()
            self.leave()
            self._answer.place_again()
            await self._begin(self._placed_again(None), avoid)

    async def _begin(self, leg: Leg, avoid: tuple[str, ...] = ()) -> None:
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
        workers, now_s = self._gateway.workers, self._gateway.monotonic_s
        refused_by = [worker for worker in avoid if workers.has_other(worker, now_s)]
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
            answer = await self._ask(leg, PLACE, "place", request, patience_s)
            gateway.scheduler.handle_answer()
        except NoRespondersError:
            gateway.scheduler.handle_absence(asked_at)
        except RemoteError as error:
            if error.code != FailureCode.NOT_LEADING:
                raise EndedError(error.code) from error
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
        leg.hand_overs += 1
        if leg.hand_overs > 1:
            placement = replace(placement, transfer_id=f"{placement.transfer_id}-p{leg.hand_overs}")
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


def serve(gateway: Gateway, client: Client) -> None:
    """Begins with a client whose connection is open."""
    task = gateway.spawn(_serve(gateway, client))
    client.serve_by(task)
    task.when_done(lambda _: gateway.clients.remove(client))  # also of one that is cancelled before it begins


async def _serve(gateway: Gateway, client: Client) -> None:
    request = Generation(gateway, client)
    try:
        await request.run()
    except EndedError as error:
        client.end(error.code)
    except EventGapError:
        client.end(FailureCode.EVENTS_LOST)
    except CancelledError:
        client.end("left")
    finally:
        if gateway.alive:
            request.leave()
