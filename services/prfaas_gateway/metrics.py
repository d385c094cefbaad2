"""What the gateway counts beside the metrics that services share: its HTTP face and its tokenizer."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from prfaas.telemetry.metrics import TTFT_BUCKETS


class EdgeMetrics:
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
        self.tokenize_s = Histogram(
            "prfaas_gateway_tokenize_seconds", "Chat template and tokenizer.", registry=registry, buckets=TTFT_BUCKETS
        )

    def response(self, endpoint: str, status: int) -> None:
        self._responses.labels(endpoint, str(status)).inc()
