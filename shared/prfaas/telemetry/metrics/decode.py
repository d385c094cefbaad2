"""Metrics of the decode worker's batch."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from prfaas.telemetry.metrics.buckets import DURATION_BUCKETS, TPOT_BUCKETS


class DecodeMetrics:
    """One worker serves one model."""

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...] = DURATION_BUCKETS) -> Histogram:
            return Histogram(name, text, ["model_name"], registry=registry, buckets=buckets).labels(model_name)

        self.decode_s = histogram("vllm:request_decode_time_seconds", "First to last token.")
        self.step_s = histogram("prfaas_decode_step_seconds", "One step of the whole batch.", TPOT_BUCKETS)
        self.tokens = Counter(
            "prfaas_decoded_tokens", "Tokens sampled by this worker.", ["model_name"], registry=registry
        ).labels(model_name)  # fmt: skip
        self._ended = Counter(
            "prfaas_decode_requests", "Accepted requests, by how they ended.", ["model_name", "result"], registry=registry
        )
        self._registry = registry
        self._model_name = model_name

    def watch(
        self, *, running: Callable[[], float], waiting: Callable[[], float], cache_usage_ratio: Callable[[], float]
    ) -> None:
        """Has the gauges read when they are asked for: a step of the batch then pays nothing for them."""
        for name, text, read in (
            ("vllm:num_requests_running", "Requests in the batch.", running),
            ("vllm:num_requests_waiting", "Requests that hold a slot and wait for their KV.", waiting),
            ("vllm:kv_cache_usage_perc", "Share of the KV cache in use; 1 is all of it.", cache_usage_ratio),
        ):
            Gauge(name, text, ["model_name"], registry=self._registry).labels(self._model_name).set_function(read)

    def ended(self, result: str) -> None:
        """`result` is stop, length, cancelled, or the code of a failure such as engine, text or deadline."""
        self._ended.labels(self._model_name, result).inc()
