"""Metrics of KV transfers: received and sent bytes, and the bucket between."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from prfaas.contracts.kv import TransferReport
from prfaas.telemetry.metrics.buckets import DURATION_BUCKETS, RATIO_BUCKETS, SIZE_BUCKETS_BYTES


class TransferMetrics:
    """KV that a decode worker received, or did not. Recorded once per attempt, not per frame."""

    def __init__(self, registry: CollectorRegistry) -> None:
        link = ["source", "destination"]
        self._attempts = Counter("prfaas_kv_transfers", "Transfer attempts by result.", [*link, "result"], registry=registry)
        self._bytes = Counter(
            "prfaas_kv_transfer_bytes",
            "KV bytes received, those of failed attempts included.",
            [*link, "result"],
            registry=registry,
        )
        self._frames = Counter("prfaas_kv_transfer_frames", "Frames received.", [*link, "result"], registry=registry)
        self._lossy = Counter(
            "prfaas_kv_lossy_transfers",
            "Verified transfers with frames in 8 bits: answers that may differ.",
            link,
            registry=registry,
        )
        self._reused = Counter(
            "prfaas_kv_reused_tokens", "Prompt tokens whose KV the decode worker had already.", link, registry=registry
        )
        self._saved = Counter("prfaas_kv_saved_bytes", "KV that did not come for that reason.", link, registry=registry)
        self._size = Histogram(
            "prfaas_kv_transfer_size_bytes", "Size of a verified transfer.", link, registry=registry, buckets=SIZE_BUCKETS_BYTES
        )
        self._duration = Histogram(
            "prfaas_kv_transfer_duration_seconds", "First frame to the whole verified.", link,
            registry=registry, buckets=DURATION_BUCKETS,
        )  # fmt: skip
        self._residual = Histogram(
            "prfaas_kv_transfer_residual_seconds", "End of prefill to the whole verified: what did not overlap.", link,
            registry=registry, buckets=DURATION_BUCKETS,
        )  # fmt: skip
        self._overlap = Histogram(
            "prfaas_kv_transfer_overlap_ratio", "1 - residual / duration.", link, registry=registry, buckets=RATIO_BUCKETS
        )

    def verified(self, source: str, destination: str, report: TransferReport, residual_s: float) -> None:
        self._count(source, destination, "verified", report)
        if report.lossy_frames:
            self._lossy.labels(source, destination).inc()
        self._reused.labels(source, destination).inc(report.reused_tokens)
        self._saved.labels(source, destination).inc(report.saved_bytes)
        self._size.labels(source, destination).observe(report.bytes)
        self._duration.labels(source, destination).observe(report.duration_s)
        self._residual.labels(source, destination).observe(residual_s)
        self._overlap.labels(source, destination).observe(overlap_ratio(report.duration_s, residual_s))

    def failed(self, source: str, destination: str, code: str, report: TransferReport) -> None:
        """`code`: a failure code; `report`: what had come until then."""
        self._count(source, destination, code, report)

    def _count(self, source: str, destination: str, result: str, report: TransferReport) -> None:
        self._attempts.labels(source, destination, result).inc()
        self._bytes.labels(source, destination, result).inc(report.bytes)
        self._frames.labels(source, destination, result).inc(report.frames)


def watch_bucket(
    registry: CollectorRegistry,
    site: str,
    *,
    stored_bytes: Callable[[], float],
    leaked_bytes: Callable[[], float],
    reclaimed_messages: Callable[[], float],
) -> None:
    """Shows the site's KV bucket as one of its decode workers last saw it. Leaked must read 0."""
    for name, text, read in (
        ("prfaas_kv_stored_bytes", "KV under way in the site's bucket.", stored_bytes),
        ("prfaas_kv_leaked_bytes", "KV whose receiver is gone and that a sweep failed to remove.", leaked_bytes),
        ("prfaas_kv_reclaimed_messages", "Messages that sweeps removed since the start.", reclaimed_messages),
    ):
        Gauge(name, text, ["site"], registry=registry).labels(site).set_function(read)


class SendMetrics:
    """KV that a prefill worker sent."""

    def __init__(self, registry: CollectorRegistry) -> None:
        link = ["source", "destination"]
        self._bytes = Counter("prfaas_kv_sent_bytes", "KV bytes published, resent ones included.", link, registry=registry)
        self._blocked = Counter(
            "prfaas_kv_send_blocked_seconds",
            "Time that prefill stood still because the link's window was full.",
            link,
            registry=registry,
        )

    def sent(self, source: str, destination: str, *, sent_bytes: int, blocked_s: float) -> None:
        self._bytes.labels(source, destination).inc(sent_bytes)
        self._blocked.labels(source, destination).inc(blocked_s)


def overlap_ratio(duration_s: float, residual_s: float) -> float:
    """Share of a transfer that lay within prefill, 0 to 1: 1 - residual / duration. One of no time: 1 or 0."""
    if duration_s <= 0:
        return 0.0 if residual_s > 0 else 1.0
    return min(1.0, max(0.0, 1 - residual_s / duration_s))
