"""Metrics of cached prefixes that prefill workers pull from one another."""

from prometheus_client import CollectorRegistry, Counter


class PullMetrics:
    """Bytes are counted by who receives them, and prefixes sent by who sends them."""

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        self._pulls = Counter(
            "prfaas_prefix_pulls",
            "Prefixes that a job named to be pulled: done, held (here already), refused (by the holder), late, failed, skipped.",
            ["model_name", "from_site", "result"],
            registry=registry,
        )
        self._pulled_bytes = Counter(
            "prfaas_prefix_pulled_bytes", "KV of pulled prefixes.", ["model_name", "from_site"], registry=registry
        )
        self._lost_s = Counter(
            "prfaas_prefix_pull_lost_seconds",
            "Time that jobs waited for pulls that were given up, and by which others took longer than computing.",
            ["model_name", "from_site"],
            registry=registry,
        )
        self._sent = Counter(
            "prfaas_prefix_sends",
            "Requests of other workers for a prefix: done, failed, bad, busy, not_held.",
            ["model_name", "to_site", "result"],
            registry=registry,
        )
        self._sent_bytes = Counter(
            "prfaas_prefix_sent_bytes", "Bytes of prefixes sent, with headers.", ["model_name", "to_site"], registry=registry
        )
        self._model_name = model_name

    def pulled(self, site: str, result: str, size_bytes: int = 0, lost_s: float = 0.0) -> None:
        self._pulls.labels(self._model_name, site, result).inc()
        self._pulled_bytes.labels(self._model_name, site).inc(size_bytes)
        self._lost_s.labels(self._model_name, site).inc(max(0.0, lost_s))

    def sent(self, result: str, site: str, size_bytes: int = 0) -> None:
        """`site` is empty in a refusal."""
        self._sent.labels(self._model_name, site, result).inc()
        if size_bytes:
            self._sent_bytes.labels(self._model_name, site).inc(size_bytes)
