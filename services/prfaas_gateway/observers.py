"""Metrics and tracing that all requests of a gateway share."""

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from prfaas.telemetry.metrics.buckets import TTFT_BUCKETS
from prfaas.telemetry.metrics.gateway import GatewayMetrics
from prfaas.telemetry.tracing import Tracing
from prfaas_gateway.console.recent_requests import RecentRequests


class EdgeMetrics:
    """Metrics of the HTTP server, the tokenizer and the waiting line."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._responses = Counter(
            "prfaas_gateway_responses",
            "Responses by HTTP status; 499: the client left before its answer was complete.",
            ["endpoint", "status"],
            registry=registry,
        )
        self.stray_events = Counter(
            "prfaas_gateway_stray_events", "Events of requests that are no longer in flight.", registry=registry
        )
        self.ignored_fields = Counter(
            "prfaas_gateway_ignored_fields", "Fields of requests that no API has, left out as `ignore-unknown-fields` says.",
            registry=registry,
        )  # fmt: skip
        self.moved_requests = Counter(
            "prfaas_gateway_moved_requests", "Times that a request was placed again after its decode worker was lost.",
            registry=registry,
        )  # fmt: skip
        self._detours = Counter(
            "prfaas_gateway_detours", "Detours that requests took before their answers, by contracts.terms.Detour.", ["detour"],
            registry=registry,
        )  # fmt: skip
        self.tokenize_s = Histogram(
            "prfaas_gateway_tokenize_seconds", "Chat template and tokenizer.", registry=registry, buckets=TTFT_BUCKETS
        )
        self._waiting = Gauge(
            "prfaas_gateway_waiting_requests", "Requests that wait for a place at a decode worker.", registry=registry
        )

    def response(self, endpoint: str, status: int) -> None:
        self._responses.labels(endpoint, str(status)).inc()

    def detour(self, detour: str, times: int) -> None:
        self._detours.labels(detour).inc(times)

    def watch_waiting(self, waiting: Callable[[], int]) -> None:
        self._waiting.set_function(waiting)


@dataclass(frozen=True, kw_only=True)
class Observers:
    """Metrics, tracing and the console's records of one gateway."""

    shared: GatewayMetrics
    edge: EdgeMetrics
    tracing: Tracing
    requests: RecentRequests
