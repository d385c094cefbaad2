"""Counts, spans and the log line of one request."""

import time
from collections.abc import Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_decode import Sampling
from prfaas.contracts.to_gateway import Finished, GenerateEvent, Started, Tokens
from prfaas.telemetry import names
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics.gateway import ModelRequests
from prfaas.telemetry.tracing import AttributeValue, trace_id
from prfaas.telemetry.wall_clock import unix_s
from prfaas_gateway.console.seen_request import SeenRequest
from prfaas_gateway.generation import Generation
from prfaas_gateway.observers import Observers
from prfaas_gateway.openai.types import ChatRequest, GenerationRequest

log = get_logger(__name__)

CLIENT_REQUEST_ID = "prfaas.client_request_id"

CLIENT_GONE_STATUS = 499
"""nginx's status for a client that closed the connection before its answer was complete."""


class RequestRecord:
    """Counts, spans and the log line of one request.

    Durations are measured by the monotonic clock. Spans need the wall clock beside it."""

    def __init__(self, endpoint: str, observers: Observers) -> None:
        self._endpoint = endpoint
        self._observers = observers
        self._model_name = ""
        self._series: ModelRequests | None = None
        self._arrived_s = time.monotonic()
        self._arrived_ns = time.time_ns()
        self._last_token_s: dict[int, float] = {}
        """Moment of each choice's last token."""
        self._completion_tokens: dict[int, int] = {}
        self._finish_reasons: dict[int, str] = {}
        self._first_token_ns = 0
        self._said: dict[str, Any] = {}
        self._root: Span | None = None
        self._tenant_label = ""
        self._seen: SeenRequest | None = None
        """The console's record; None until the request is known to be well-formed: others never push out a tenant's."""
        observers.shared.open_requests.inc()

    def identified(self, client_request_id: str) -> None:
        self._said["client_request_id"] = client_request_id

    def of_tenant(self, name: str, label: str) -> None:
        """Adds the tenant's name to the log line; an empty one says that there are no tenants."""
        self._tenant_label = label
        if name:
            self._said["tenant"] = name

    def parsed(self, request: GenerationRequest, parent: Context, ids: Mapping[str, str]) -> Span:
        """Starts the root span of a request that is well-formed and for a model that is served."""
        operation = names.OPERATION_CHAT if isinstance(request, ChatRequest) else names.OPERATION_TEXT_COMPLETION
        attributes: dict[str, AttributeValue] = {
            names.OPERATION_NAME: operation,
            names.PROVIDER_NAME: names.PROVIDER,
            names.REQUEST_MODEL: request.model,
            names.REQUEST_STREAM: request.stream,
            **ids,
        }
        self._root = self._observers.tracing.start(
            names.chat_span_name(operation, request.model),
            parent=parent,
            kind=SpanKind.SERVER,
            start_ns=self._arrived_ns,
            attributes=attributes,
        )
        self._model_name = request.model
        self._said |= {"model": request.model, **{name.removeprefix("prfaas."): value for name, value in ids.items()}}
        if self._root.get_span_context().is_valid:
            self._said["trace_id"] = trace_id(self._root)
        self._series = self._observers.shared.model(request.model)
        self._seen = SeenRequest(
            request_id=ids[names.REQUEST_ID],
            client_request_id=ids.get(CLIENT_REQUEST_ID, ""),
            tenant=self._tenant_label,
            model=request.model,
            arrived_at=self._arrived_s,
            arrived_unix_s=self._arrived_ns / 1e9,
            trace_id=trace_id(self._root) if self._observers.tracing.enabled else "",
        )
        self._observers.requests.began(self._seen)
        return self._root

    def tokenized(self, prompt_tokens: int, sampling: Sampling, start_ns: int) -> None:
        assert self._root is not None
        assert self._series is not None and self._seen is not None
        end_ns = time.time_ns()
        self._seen.prompt_tokens, self._seen.tokenized_at = prompt_tokens, time.monotonic()
        self._observers.edge.tokenize_s.observe((end_ns - start_ns) / 1e9)
        self._observers.tracing.record(names.TOKENIZE, parent=self._root, start_ns=start_ns, end_ns=end_ns)
        self._series.prompt_tokens.inc(prompt_tokens)
        self._said["prompt_tokens"] = prompt_tokens
        attributes: dict[str, AttributeValue] = {
            names.USAGE_INPUT_TOKENS: prompt_tokens,
            names.REQUEST_MAX_TOKENS: sampling.max_tokens,
            names.REQUEST_TEMPERATURE: sampling.temperature,
            names.REQUEST_TOP_P: sampling.top_p,
        }
        if sampling.presence_penalty:
            attributes[names.REQUEST_PRESENCE_PENALTY] = sampling.presence_penalty
        if sampling.frequency_penalty:
            attributes[names.REQUEST_FREQUENCY_PENALTY] = sampling.frequency_penalty
        if sampling.seed is not None:
            attributes[names.REQUEST_SEED] = sampling.seed
        if sampling.stop:
            attributes[names.REQUEST_STOP_SEQUENCES] = sampling.stop
        self._root.set_attributes(attributes)

    def placed(self, generation: Generation) -> None:
        """Takes that a decode worker has accepted the request."""
        assert self._seen is not None
        placement = generation.placement
        self._seen.placed(placement.prefill_site, placement.reason, placement.decode_worker, time.monotonic())

    def moved(self, started: Started) -> None:
        """Takes where the KV comes from that the answer is decoded from now."""
        assert self._root is not None
        self._said |= {"outcome": started.outcome.value, "prefill_site": started.prefill_site}
        self._root.set_attribute(names.PREFILL_SITE, started.prefill_site)
        self._root.set_attribute(names.OUTCOME, started.outcome.value)
        self._root.set_attribute(names.ROUTE_OFFLOADED, started.outcome is Outcome.OFFLOADED)
        self._root.set_attribute(names.ROUTE_REASON, started.reason)
        self._root.set_attribute(names.USAGE_CACHE_READ_INPUT_TOKENS, started.cached_tokens)

    def heard(self, event: GenerateEvent, choice: int = 0) -> None:
        """Counts an event of one of the request's choices. Spans and the console tell of the first one's prefill."""
        assert self._root is not None and self._seen is not None
        match event:
            case Started():
                self._observers.shared.outcome(self._model_name, event.outcome, event.prefill_site)
                if not choice:
                    self._seen.started(event, time.monotonic())
                    self.moved(event)
            case Tokens():
                self._tokens(len(event.token_ids), choice)
            case Finished():
                if not choice:
                    self._seen.finished(event)
                self._observers.shared.success.labels(self._model_name, event.finish_reason).inc()
                self._completion_tokens[choice] = event.completion_tokens
                self._finish_reasons[choice] = event.finish_reason
                self._seen.completion_tokens = completion_tokens = sum(self._completion_tokens.values())
                reasons = [reason for _, reason in sorted(self._finish_reasons.items())]
                self._said |= {"completion_tokens": completion_tokens, "finish_reason": ",".join(reasons)}
                self._root.set_attribute(names.RESPONSE_FINISH_REASONS, reasons)
                self._root.set_attribute(names.USAGE_OUTPUT_TOKENS, completion_tokens)

    def _tokens(self, count: int, choice: int) -> None:
        assert self._root is not None
        assert self._series is not None and self._seen is not None
        now_s = time.monotonic()
        self._seen.completion_tokens += count
        self._completion_tokens[choice] = self._completion_tokens.get(choice, 0) + count
        last_token_s = self._last_token_s.get(choice)
        if not self._last_token_s:
            self._first_token_ns = time.time_ns()
            ttft_s = now_s - self._arrived_s
            self._series.time_to_first_token.observe(ttft_s)
            self._said["ttft_s"] = round(ttft_s, 6)
            self._root.set_attribute(names.RESPONSE_TIME_TO_FIRST_CHUNK, ttft_s)
            self._seen.first_token_at = now_s
            self._observers.requests.first_token(self._seen, unix_s())
        elif count and last_token_s is not None:
            self._series.inter_token.observe((now_s - last_token_s) / count)
        self._series.generation_tokens.inc(count)
        self._last_token_s[choice] = now_s

    def detoured(self, moves: int, detours: Mapping[str, int]) -> None:
        """Takes the times of each detour of a request whose answer had begun."""
        assert self._seen is not None
        self._seen.moves = moves
        if moves:
            self._said["moves"] = moves
        if detours:
            self._said["detours"] = dict(detours)
        for detour, times in detours.items():
            self._observers.edge.detour(detour, times)

    def ended(self, status: int, error_code: str | None) -> None:
        """`status` is the HTTP status sent, or CLIENT_GONE_STATUS. An error may come after a status 200."""
        observers = self._observers
        observers.shared.open_requests.dec()
        observers.edge.response(self._endpoint, status)
        duration_s = time.monotonic() - self._arrived_s
        said = self._said | ({"error": error_code} if error_code else {})
        log.info("request", endpoint=self._endpoint, status=status, duration_s=round(duration_s, 6), **said)
        if error_code is not None:
            observers.shared.failures.labels(error_code).inc()
        if self._root is None or self._series is None or self._seen is None:
            return
        self._seen.ended_at, self._seen.status, self._seen.error = time.monotonic(), status, error_code or ""
        observers.requests.ended(self._seen, unix_s())
        if self._last_token_s:
            observers.tracing.record(names.STREAM, parent=self._root, start_ns=self._first_token_ns, end_ns=time.time_ns())
        if error_code is None:
            self._series.e2e.observe(duration_s)
        else:
            self._root.set_attribute(names.ERROR_TYPE, error_code)
            self._root.set_status(Status(StatusCode.ERROR, error_code))
        self._root.end()
