"""What is counted and traced about one request."""

import time

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from prfaas.contracts.to_decode import Sampling
from prfaas.contracts.to_gateway import Finished, GenerateEvent, Started, Tokens
from prfaas.contracts.to_scheduler import Outcome
from prfaas.gateway.metrics import GatewayMetrics, ModelMetrics
from prfaas.gateway.openai_types import ChatRequest, GenerationRequest
from prfaas.telemetry import names
from prfaas.telemetry.tracing import AttributeValue, Tracing

TOKENIZE = "tokenize"
CLIENT_REQUEST_ID = "prfaas.client_request_id"

CLIENT_GONE_STATUS = 499
"""nginx's: the client closed the connection before its answer was complete."""


class RequestRecord:
    """Times are of the monotonic clock, in s; spans need the wall clock beside it."""

    def __init__(self, endpoint: str, metrics: GatewayMetrics, tracing: Tracing) -> None:
        self._endpoint = endpoint
        self._metrics = metrics
        self._tracing = tracing
        self._model: ModelMetrics | None = None
        self._arrived_s = time.monotonic()
        self._arrived_ns = time.time_ns()
        self._last_token_s: float | None = None
        self._first_sent_ns = 0
        self._outcome = "none"
        self.root: Span | None = None

    def parsed(self, request: GenerationRequest, model: ModelMetrics, parent: Context, ids: dict[str, str]) -> Span:
        """The root span: the request was well-formed, and for a model that is served."""
        operation = names.OPERATION_CHAT if isinstance(request, ChatRequest) else names.OPERATION_TEXT_COMPLETION
        attributes: dict[str, AttributeValue] = {
            names.OPERATION_NAME: operation,
            names.PROVIDER_NAME: names.PROVIDER,
            names.REQUEST_MODEL: request.model,
            names.REQUEST_STREAM: request.stream,
            **ids,
        }
        self.root = self._tracing.start(
            names.chat_span_name(operation, request.model),
            parent=parent,
            kind=SpanKind.SERVER,
            start_ns=self._arrived_ns,
            attributes=attributes,
        )
        self._model = model
        model.waiting.inc()
        return self.root

    def tokenized(self, prompt_tokens: int, sampling: Sampling, start_ns: int) -> None:
        assert self.root is not None
        assert self._model is not None
        end_ns = time.time_ns()
        self._metrics.tokenize_s.observe((end_ns - start_ns) / 1e9)
        self._model.request_prompt_tokens.observe(prompt_tokens)
        self._model.prompt_tokens.inc(prompt_tokens)
        self._tracing.record(TOKENIZE, parent=self.root, start_ns=start_ns, end_ns=end_ns)
        attributes: dict[str, AttributeValue] = {
            names.USAGE_INPUT_TOKENS: prompt_tokens,
            names.REQUEST_MAX_TOKENS: sampling.max_tokens,
            names.REQUEST_TEMPERATURE: sampling.temperature,
            names.REQUEST_TOP_P: sampling.top_p,
        }
        if sampling.seed is not None:
            attributes[names.REQUEST_SEED] = sampling.seed
        if sampling.stop:
            attributes[names.REQUEST_STOP_SEQUENCES] = sampling.stop
        self.root.set_attributes(attributes)

    def heard(self, event: GenerateEvent) -> None:
        assert self.root is not None
        assert self._model is not None
        match event:
            case Started():
                self._started(event)
            case Tokens():
                self._tokens(len(event.token_ids))
            case Finished():
                self._model.success.labels(self._model.name, event.finish_reason).inc()
                self.root.set_attribute(names.RESPONSE_FINISH_REASONS, [event.finish_reason])
                self.root.set_attribute(names.USAGE_OUTPUT_TOKENS, event.completion_tokens)

    def _started(self, event: Started) -> None:
        assert self.root is not None
        self._outcome = event.outcome
        self.root.set_attributes(
            {
                names.PREFILL_SITE: event.prefill_site,
                names.OUTCOME: event.outcome,
                names.ROUTE_OFFLOADED: event.outcome is Outcome.OFFLOADED,
                names.ROUTE_REASON: event.reason,
                names.USAGE_CACHE_READ_INPUT_TOKENS: event.cached_tokens,
            }
        )

    def _tokens(self, count: int) -> None:
        assert self.root is not None
        assert self._model is not None
        now_s = time.monotonic()
        if self._last_token_s is None:
            self._first_sent_ns = time.time_ns()
            self._model.waiting.dec()
            self._model.running.inc()
            self._model.ttft_s.observe(now_s - self._arrived_s)
            self.root.set_attribute(names.RESPONSE_TIME_TO_FIRST_CHUNK, now_s - self._arrived_s)
        elif count:
            self._model.inter_token_s.observe((now_s - self._last_token_s) / count)
        self._model.generation_tokens.inc(count)
        self._last_token_s = now_s

    def ended(self, status: int, error_code: str | None) -> None:
        """`status` is the HTTP status sent, or CLIENT_GONE_STATUS."""
        self._metrics.requests.labels(self._endpoint, str(status), self._outcome).inc()
        if self._model is None or self.root is None:
            return
        if self._last_token_s is None:
            self._model.waiting.dec()
        else:
            self._model.running.dec()
            self._tracing.record(names.STREAM, parent=self.root, start_ns=self._first_sent_ns, end_ns=time.time_ns())
        if error_code is None:
            self._model.request_s.observe(time.monotonic() - self._arrived_s)
        else:
            self.root.set_attribute(names.ERROR_TYPE, error_code)
            self.root.set_status(Status(StatusCode.ERROR, error_code))
        self.root.end()
