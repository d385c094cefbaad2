"""Metrics of the queue of a site's prefill jobs."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from prfaas.telemetry.metrics.buckets import TTFT_BUCKETS


class QueueMetrics:
    def __init__(self, registry: CollectorRegistry, class_of: Callable[[int], str]) -> None:
        """`class_of`: name of the length class of a prefill, by its tokens."""
        self._registry = registry
        self._class_of = class_of
        self._left = Counter("prfaas_queue_left", "Jobs that left the queue, by how.", ["result"], registry=registry)
        self._wait_s = Histogram(
            "prfaas_queue_wait_seconds",
            "Wait of dispatched jobs from their arrival on, by length class.",
            ["length"],
            registry=registry,
            buckets=TTFT_BUCKETS,
        )

    def watch(self, *, jobs: Callable[[], float], put_off_s: Callable[[], float], workers: Callable[[], float]) -> None:
        for name, text, read in (
            ("prfaas_queue_jobs", "Jobs that wait for a worker.", jobs),
            ("prfaas_queue_put_off_seconds", "Work of the jobs that were put off and wait.", put_off_s),
            ("prfaas_queue_ready_workers", "Workers that wait for a job.", workers),
        ):
            Gauge(name, text, registry=self._registry).set_function(read)

    def dispatched(self, tokens: int, wait_s: float, *, known: bool) -> None:
        """`known`: another process had dispatched it before."""
        self.left("known" if known else "dispatched")
        if not known:
            self._wait_s.labels(self._class_of(tokens)).observe(wait_s)

    def left(self, result: str) -> None:
        """`result` is dispatched, known, refused or cancelled."""
        self._left.labels(result).inc()
