"""Metrics of the scheduler's placements."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from prfaas.contracts.terms import Outcome


class SchedulerMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._placements = Counter("prfaas_placements", "Placements by outcome.", ["outcome", "prefill_site"], registry=registry)
        self._refusals = Counter("prfaas_placement_refusals", "Requests refused, by code.", ["code"], registry=registry)
        self.decision_s = Histogram(
            "prfaas_placement_seconds", "Deciding one placement.", registry=registry,
            buckets=(1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 1e-1),
        )  # fmt: skip
        self.workers = Gauge("prfaas_workers", "Workers with a fresh heartbeat.", ["site", "role"], registry=registry)
        self.breaker_open = Gauge(
            "prfaas_breaker_open", "1 while nothing, or one trial at a time, is offloaded to a remote site; else 0.",
            ["prefill_site"], registry=registry,
        )  # fmt: skip
        self.hit_tokens = Counter(
            "prfaas_predicted_hit_tokens", "Prompt tokens that placements expect in a prefill worker's cache.", registry=registry
        )
        self._moves = Counter(
            "prfaas_role_changes", "Workers told to change their role, by what became of it.", ["to_role", "result"],
            registry=registry,
        )  # fmt: skip
        self._snapshots = Counter(
            "prfaas_cache_snapshots", "Workers asked for all that their cache holds, by result.", ["result"], registry=registry
        )

    def watch_directory(self, *, blocks: Callable[[], float], dropped: Callable[[], float], registry: CollectorRegistry) -> None:
        for name, text, read in (
            ("prfaas_known_cached_blocks", "Pairs of worker and cached block that the scheduler knows.", blocks),
            ("prfaas_forgotten_cached_blocks", "Such pairs that it gave up to stay within its maximum.", dropped),
        ):
            Gauge(name, text, registry=registry).set_function(read)

    def watch_leadership(self, leads: Callable[[], bool], term: Callable[[], float], registry: CollectorRegistry) -> None:
        text = "1 while this scheduler leads its site, 0 while it stands by."
        Gauge("prfaas_scheduler_leads", text, registry=registry).set_function(lambda: float(leads()))
        text = "Number of the site's present leadership, as far as this scheduler knows."
        Gauge("prfaas_scheduler_term", text, registry=registry).set_function(term)

    def watch_distrust(self, sites: Callable[[], float], registry: CollectorRegistry) -> None:
        text = "Sites that get no prompts because an audit found their KV wrong; the log names them."
        Gauge("prfaas_distrusted_sites", text, registry=registry).set_function(sites)

    def watch_threshold(self, tokens: Callable[[], float], registry: CollectorRegistry) -> None:
        text = "Uncached prompt length above which a prompt is offloaded, of policies that have one."
        Gauge("prfaas_threshold_tokens", text, registry=registry).set_function(tokens)

    def move(self, to_role: str, result: str) -> None:
        """`result` is begun, then one of done, refused, kept, lost."""
        self._moves.labels(to_role, result).inc()

    def snapshot(self, result: str) -> None:
        """`result` is told or failed."""
        self._snapshots.labels(result).inc()

    def placed(self, outcome: Outcome, prefill_site: str) -> None:
        self._placements.labels(outcome.value, prefill_site).inc()

    def refused(self, code: str) -> None:
        self._refusals.labels(code).inc()
