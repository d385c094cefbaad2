"""Metrics of a bandwidth probe's links."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from prfaas.contracts.to_scheduler import LinkEstimate


class LinkMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        link = ["source", "destination"]
        self._rtt = Gauge("prfaas_link_rtt_seconds", "Round trip in the control account.", link, registry=registry)
        self._goodput = Gauge("prfaas_link_goodput_bytes_per_second", "KV bytes the link carries.", link, registry=registry)
        self._jitter = Gauge("prfaas_link_jitter_seconds", "Mean step between two round trips.", link, registry=registry)
        self._confidence = Gauge(
            "prfaas_link_confidence_ratio", "How far the last measurements of goodput agree.", link, registry=registry
        )
        self._retransmits = Gauge(
            "prfaas_link_retransmit_ratio", "Segments sent again, where the kernel was asked.", link, registry=registry
        )
        self._leased = Gauge(
            "prfaas_link_leased_bytes_per_second", "Egress that workers hold leases for, of a link with a budget.",
            link, registry=registry,
        )  # fmt: skip
        self._budget = Gauge(
            "prfaas_link_budget_bytes_per_second", "Egress budget of a link that has one.", link, registry=registry
        )
        self._failures = Counter("prfaas_link_probe_failures", "Probes without an answer in time.", link, registry=registry)

    def estimated(self, estimate: LinkEstimate) -> None:
        link = estimate.source, estimate.destination
        self._rtt.labels(*link).set(estimate.rtt_s)
        self._jitter.labels(*link).set(estimate.jitter_s)
        self._goodput.labels(*link).set(estimate.goodput_bytes_per_s)
        self._confidence.labels(*link).set(estimate.confidence)
        if estimate.retransmit_share is not None:
            self._retransmits.labels(*link).set(estimate.retransmit_share)

    def budget(self, source: str, destination: str, bytes_per_s: float) -> None:
        self._budget.labels(source, destination).set(bytes_per_s)

    def leased(self, source: str, destination: str, bytes_per_s: float) -> None:
        self._leased.labels(source, destination).set(bytes_per_s)

    def probe_failed(self, source: str, destination: str) -> None:
        self._failures.labels(source, destination).inc()
