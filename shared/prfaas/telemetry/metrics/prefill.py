"""Metrics of the prefill worker's jobs."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from prfaas.telemetry.metrics.buckets import DURATION_BUCKETS


class PrefillMetrics:
    """One worker serves one model."""

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        def histogram(name: str, text: str) -> Histogram:
            return Histogram(name, text, ["model_name"], registry=registry, buckets=DURATION_BUCKETS).labels(model_name)

        self.queue_s = histogram("vllm:request_queue_time_seconds", "Job stored in the work queue to job taken.")
        self.prefill_s = histogram("vllm:request_prefill_time_seconds", "Computing one job's prefill.")
        self.tokens = Counter(
            "prfaas_prefilled_tokens", "Prompt tokens computed by this worker.", ["model_name"], registry=registry
        ).labels(model_name)  # fmt: skip
        self.prefix_queries = Counter(
            "vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", ["model_name"], registry=registry
        ).labels(model_name)  # fmt: skip
        self.prefix_hits = Counter(
            "vllm:prefix_cache_hits", "Prompt tokens found there, and not computed.", ["model_name"], registry=registry
        ).labels(model_name)  # fmt: skip
        self._hit_tokens = Counter(
            "prfaas_prefix_hit_tokens",
            "Prompt tokens found in the prefix cache, by tier.",
            ["model_name", "tier"],
            registry=registry,
        )
        self._saved_s = Counter(
            "prfaas_prefix_saved_seconds",
            "Predicted time to compute what was found, less that to read it.",
            ["model_name", "tier"],
            registry=registry,
        )
        self._jobs = Counter("prfaas_prefill_jobs", "Jobs taken, by how they ended.", ["model_name", "result"], registry=registry)
        self._model_name = model_name

    def hit(self, tier: str, tokens: int, saved_s: float) -> None:
        """`tier` is memory, disk, or pulled from another worker."""
        self._hit_tokens.labels(self._model_name, tier).inc(tokens)
        self._saved_s.labels(self._model_name, tier).inc(max(0.0, saved_s))

    def job(self, result: str) -> None:
        """`result` is done, failed, redelivered, or the code of a refusal (cancelled, expired, wrong_model, ...)."""
        self._jobs.labels(self._model_name, result).inc()
