"""Metrics of second opinions on other sites' KV."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class AuditMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._done = Counter("prfaas_kv_audit_done", "Prefills compared with one at home, by site.", ["site"], registry=registry)
        self._agreed = Counter("prfaas_kv_audit_agreed", "Those whose KV was the same.", ["site"], registry=registry)
        self._disagreed = Counter(
            "prfaas_kv_audit_disagreed", "Those whose KV was not the same: the site's answers are not to be trusted.", ["site"],
            registry=registry,
        )  # fmt: skip
        self._skipped = Counter(
            "prfaas_kv_audit_skipped", "Prefills drawn for an audit that was dropped, by reason.", ["site", "reason"],
            registry=registry,
        )  # fmt: skip
        self._difference = Gauge(
            "prfaas_kv_audit_difference", "Largest relative difference of the last audit, in any token and layer.", ["site"],
            registry=registry,
        )  # fmt: skip

    def done(self, site: str, verdict: str, difference: float) -> None:
        """`verdict` is agreed or disagreed."""
        self._done.labels(site).inc()
        (self._agreed if verdict == "agreed" else self._disagreed).labels(site).inc()
        self._difference.labels(site).set(difference)

    def skipped(self, site: str, reason: str) -> None:
        self._skipped.labels(site, reason).inc()
