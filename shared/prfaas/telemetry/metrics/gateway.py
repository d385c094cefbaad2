"""Metrics of the gateway: what a client sees."""

from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from prfaas.contracts.terms import Outcome
from prfaas.telemetry.metrics.buckets import DURATION_BUCKETS, TPOT_BUCKETS, TTFT_BUCKETS


class ModelRequests(NamedTuple):
    """Series of one model, bound."""

    time_to_first_token: Histogram
    inter_token: Histogram
    e2e: Histogram
    prompt_tokens: Counter
    generation_tokens: Counter


class GatewayMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        model = ["model_name"]
        self._time_to_first_token = Histogram(
            "vllm:time_to_first_token_seconds", "Request to first token.", model, registry=registry, buckets=TTFT_BUCKETS
        )
        self._inter_token = Histogram(
            "vllm:inter_token_latency_seconds", "Between two tokens of a request.", model, registry=registry, buckets=TPOT_BUCKETS
        )
        self._e2e = Histogram(
            "vllm:e2e_request_latency_seconds", "Request to last token.", model, registry=registry, buckets=DURATION_BUCKETS
        )
        self._prompt_tokens = Counter("vllm:prompt_tokens", "Prompt tokens, cached ones included.", model, registry=registry)
        self._generation_tokens = Counter("vllm:generation_tokens", "Tokens generated.", model, registry=registry)
        self.success = Counter(
            "vllm:request_success", "Requests answered in full.", [*model, "finished_reason"], registry=registry
        )
        self.open_requests = Gauge("prfaas_gateway_open_requests", "Requests being answered.", registry=registry)
        self._outcomes = Counter(
            "prfaas_requests", "Requests that began to answer, by why they were prefilled where.",
            [*model, "outcome", "prefill_site"], registry=registry,
        )  # fmt: skip
        self.failures = Counter(
            "prfaas_request_failures", "Requests answered with an error, or cut off.", ["code"], registry=registry
        )

    def model(self, model_name: str) -> ModelRequests:
        return ModelRequests(
            self._time_to_first_token.labels(model_name),
            self._inter_token.labels(model_name),
            self._e2e.labels(model_name),
            self._prompt_tokens.labels(model_name),
            self._generation_tokens.labels(model_name),
        )

    def outcome(self, model_name: str, outcome: Outcome, prefill_site: str) -> None:
        self._outcomes.labels(model_name, outcome.value, prefill_site).inc()
