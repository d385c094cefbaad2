"""The two endpoints that generate: from a client's bytes to its last token, or to its error."""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_gateway import Started
from prfaas.telemetry import names
from prfaas.telemetry.logs import get_logger, request_logs
from prfaas.telemetry.tracing import extract, trace_id
from prfaas_gateway.config import GatewayConfig
from prfaas_gateway.generation import Generation, Generations, Job, too_late
from prfaas_gateway.http.headers import ApiKeys, header_value, request_id_of, ttft_deadline_of
from prfaas_gateway.http.io import Body, ClientGoneError, Reply, until_disconnect
from prfaas_gateway.models import Admission, ServedModel
from prfaas_gateway.openai.answers import AnswerHead, StreamedAnswer, UsageOptions, WholeAnswer, error_event
from prfaas_gateway.openai.errors import ApiError, internal, unknown_model
from prfaas_gateway.openai.progress import EventGapError, Progress
from prfaas_gateway.openai.shapes import Shape
from prfaas_gateway.openai.types import ChatRequest, CompletionRequest, GenerationRequest
from prfaas_gateway.openai.validation import sampling_of
from prfaas_gateway.record import CLIENT_GONE_STATUS, CLIENT_REQUEST_ID, Observers, RequestRecord

OPENAI_COMPLETION_TOKENS = 16
"""OpenAI's default `max_tokens` of a plain completion."""

CLIENT_IDS = {"x-correlation-id": "prfaas.client_correlation_id", "x-session-affinity": "prfaas.client_session"}
"""Headers that load clients send, and the attributes of the root span that keep them."""

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """What all requests share."""

    config: GatewayConfig
    models: dict[str, ServedModel]
    keys: ApiKeys
    admission: Admission
    generations: Generations
    observers: Observers

    def model(self, name: str) -> ServedModel:
        """Raises ApiError 404."""
        if name not in self.models:
            raise unknown_model(name, list(self.models))
        return self.models[name]


class Endpoint:
    """An ASGI application: Starlette's own responses notice a client that leaves only once the answer has begun."""

    def __init__(
        self, gateway: Gateway, name: str, parse: Callable[[bytes], ChatRequest | CompletionRequest], shape: Shape
    ) -> None:
        self._gateway = gateway
        self._name = name
        self._parse = parse
        self._shape = shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway, config = self._gateway, self._gateway.config
        headers = Headers(scope=scope)
        record = RequestRecord(self._name, gateway.observers)
        reply = Reply(send, config.write_deadline_s)
        body = Body(headers, receive, config.max_body_bytes)
        error_code: str | None = FailureCode.CLIENT_GONE
        status = CLIENT_GONE_STATUS
        try:
            try:
                reply.headers["x-request-id"] = request_id_of(headers)
                record.identified(reply.headers["x-request-id"])
                tenant = gateway.keys.check(headers)
                with gateway.admission.enter():
                    data = await body.read(config.read_deadline_s)
                    exchange = Exchange(gateway, headers, reply, record, self._shape, tenant)
                    await until_disconnect(receive, reply, exchange.answer(self._parse, data))
                error_code = None
            except ApiError as error:
                error_code = error.body.code or FailureCode.INVALID_REQUEST
                await self._tell(error, reply)
            except ClientGoneError:
                raise
            except Exception as error:
                log.exception("request_crashed", endpoint=self._name)
                error_code = type(error).__name__
                await self._tell(internal("The gateway failed on this request; its log says why."), reply)
            assert reply.status is not None
            status = reply.status
        except ClientGoneError as gone:
            error_code = gone.code
        finally:
            record.ended(status, error_code)

    async def _tell(self, error: ApiError, reply: Reply) -> None:
        if reply.status is None:
            await reply.json(error.status, error.encode(), error.headers)
            return
        # The status is out already. A client must not take the end of the stream for the end of the answer.
        await reply.write(error_event(error.encode()), last=True)


class Exchange:
    """One request whose body is there."""

    def __init__(
        self, gateway: Gateway, headers: Headers, reply: Reply, record: RequestRecord, shape: Shape, tenant: str
    ) -> None:
        self._gateway = gateway
        self._headers = headers
        self._reply = reply
        self._record = record
        self._shape = shape
        self._tenant = tenant
        # The client's own id may repeat; ours names the request inside.
        self._request_id = uuid.uuid4().hex

    async def answer(self, parse: Callable[[bytes], ChatRequest | CompletionRequest], data: bytes) -> None:
        """Raises ApiError, ClientGoneError."""
        config, observers = self._gateway.config, self._gateway.observers
        arrived = asyncio.get_running_loop().time()
        request = parse(data)
        model = self._gateway.model(request.model)
        ttft_deadline_s = ttft_deadline_of(self._headers, config.ttft_deadline_s, config.max_ttft_deadline_s)
        root = self._record.parsed(request, extract(self._headers), self._ids())
        if observers.tracing.enabled:
            self._reply.headers["x-prfaas-trace-id"] = trace_id(root)
        with request_logs(self._request_id, root):
            job = await self._job(request, model, ttft_deadline_s, arrived + ttft_deadline_s)
            head = AnswerHead(
                request_id=self._request_id,
                created=int(time.time()),
                model=model.name,
                system_fingerprint=model.fingerprint,
                shape=self._shape,
            )
            progress = Progress(prompt_tokens=len(job.token_ids))
            async with self._gateway.generations.run(job, root) as generation:
                try:
                    if request.stream:
                        answer = StreamedAnswer(head=head, progress=progress, options=self._usage_options(request))
                        await self._stream(answer, generation)
                    else:
                        await self._collect(WholeAnswer(head=head, progress=progress, report=self._wants_report()), generation)
                except EventGapError as error:
                    raise internal(f"Part of the answer was lost on its way: {error}.", FailureCode.EVENTS_LOST) from error

    async def _job(
        self, request: ChatRequest | CompletionRequest, model: ServedModel, ttft_deadline_s: float, deadline: float
    ) -> Job:
        start_ns = time.time_ns()
        default_max_tokens, extra_stop = OPENAI_COMPLETION_TOKENS, tuple[str, ...]()
        try:
            async with asyncio.timeout_at(deadline):
                if isinstance(request, ChatRequest):
                    token_ids = await model.prompts.of_messages(request.messages)
                    default_max_tokens, extra_stop = self._gateway.config.default_max_tokens, model.chat_stop
                else:
                    token_ids = await model.prompts.of_prompt(request.prompt)
        except TimeoutError as error:
            raise too_late(ttft_deadline_s) from error
        sampling = sampling_of(
            request,
            prompt_tokens=len(token_ids),
            context_tokens=model.context_tokens,
            default_max_tokens=default_max_tokens,
            extra_stop=extra_stop,
        )
        self._record.tokenized(len(token_ids), sampling, start_ns)
        return Job(
            request_id=self._request_id,
            model=model.name,
            tenant=self._tenant,
            token_ids=token_ids,
            sampling=sampling,
            ttft_deadline_s=ttft_deadline_s,
            deadline=deadline,
        )

    async def _stream(self, answer: StreamedAnswer, generation: Generation) -> None:
        streaming = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        async for event in generation:
            data = answer.handle(event)
            self._record.heard(event)
            if isinstance(event, Started):
                await self._reply.start(200, {**_started_headers(event), **streaming})
            if data:
                await self._reply.write(data, last=generation.over)

    async def _collect(self, answer: WholeAnswer, generation: Generation) -> None:
        async for event in generation:
            answer.handle(event)
            self._record.heard(event)
        assert answer.progress.started is not None
        await self._reply.json(200, answer.body(), _started_headers(answer.progress.started))

    def _ids(self) -> dict[str, str]:
        ids = {names.REQUEST_ID: self._request_id, CLIENT_REQUEST_ID: self._reply.headers["x-request-id"]}
        for header, attribute in CLIENT_IDS.items():
            if value := self._headers.get(header):
                ids[attribute] = value[:256]
        return ids

    def _wants_report(self) -> bool:
        return self._headers.get("x-prfaas-report") == "1"

    def _usage_options(self, request: GenerationRequest) -> UsageOptions:
        options = request.stream_options
        if options is None:
            return UsageOptions()
        return UsageOptions(last=options.include_usage, continuous=options.continuous_usage_stats, report=self._wants_report())


def _started_headers(started: Started) -> dict[str, str]:
    return {
        "x-prfaas-outcome": started.outcome,
        "x-prfaas-prefill-site": started.prefill_site,
        "x-prfaas-reason": header_value(started.reason),
    }
