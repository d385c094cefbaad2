"""Prometheus metrics that services share: vLLM's names where they exist, `prfaas_` ones for the rest.

Every series has one owner, so that sums over processes count nothing twice: the gateway what a client sees, the decode worker
batches and received KV, the prefill worker jobs and sent KV, the scheduler placements, the probe links. Objects with a model's
name hold bound children: `observe` and `inc` on them cost well under a microsecond and may be called per token.
"""

from collections.abc import Callable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from prfaas.contracts.terms import Outcome

# Buckets in seconds, from the GenAI conventions (semantic-conventions-genai, gen_ai.server.*), with room at the top for a
# prefill of 100,000 tokens on the other side of a WAN.
TTFT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
TPOT_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
DURATION_BUCKETS = tuple(0.01 * 2**i for i in range(15))
SIZE_BUCKETS_BYTES = tuple(float(4**i) for i in range(8, 18))
"""64 KiB to 16 GiB."""
RATIO_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 1.0)


class ModelRequests(NamedTuple):
    """A gateway's series of one model, bound."""

    time_to_first_token: Histogram
    inter_token: Histogram
    e2e: Histogram
    prompt_tokens: Counter
    generation_tokens: Counter


class GatewayMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        model = ["model_name"]
        self._time_to_first_token = Histogram(
            "vllm:time_to_first_token_seconds", "Request to first token.", model, registry=registry, buckets=TTFT_BUCKETS
        )
        self._inter_token = Histogram(
            "vllm:inter_token_latency_seconds", "Between two tokens of a request.", model, registry=registry, buckets=TPOT_BUCKETS
        )
        self._e2e = Histogram(
            "vllm:e2e_request_latency_seconds", "Request to last token.", model, registry=registry, buckets=DURATION_BUCKETS
        )
        self._prompt_tokens = Counter("vllm:prompt_tokens", "Prompt tokens, cached ones included.", model, registry=registry)
        self._generation_tokens = Counter("vllm:generation_tokens", "Tokens generated.", model, registry=registry)
        self.success = Counter(
            "vllm:request_success", "Requests answered in full.", [*model, "finished_reason"], registry=registry
        )
        self.open_requests = Gauge("prfaas_gateway_open_requests", "Requests being answered.", registry=registry)
        self._outcomes = Counter(
            "prfaas_requests", "Requests that began to answer, by why they were prefilled where.",
            [*model, "outcome", "prefill_site"], registry=registry,
        )  # fmt: skip
        self.failures = Counter(
            "prfaas_request_failures", "Requests answered with an error, or cut off.", ["code"], registry=registry
        )

    def model(self, model_name: str) -> ModelRequests:
        return ModelRequests(
            self._time_to_first_token.labels(model_name),
            self._inter_token.labels(model_name),
            self._e2e.labels(model_name),
            self._prompt_tokens.labels(model_name),
            self._generation_tokens.labels(model_name),
        )

    def outcome(self, model_name: str, outcome: Outcome, prefill_site: str) -> None:
        self._outcomes.labels(model_name, outcome.value, prefill_site).inc()


class DecodeMetrics:
    """A decode worker's batch. One worker serves one model."""

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["model_name"], registry=registry).labels(model_name)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = DURATION_BUCKETS) -> Histogram:
            return Histogram(name, text, ["model_name"], registry=registry, buckets=buckets).labels(model_name)

        self.running = gauge("vllm:num_requests_running", "Requests in the batch.")
        self.waiting = gauge("vllm:num_requests_waiting", "Requests that hold a slot and wait for their KV.")
        self.cache_usage_ratio = gauge("vllm:kv_cache_usage_perc", "Share of the KV cache in use; 1 is all of it.")
        self.decode_s = histogram("vllm:request_decode_time_seconds", "First to last token.")
        self.step_s = histogram("prfaas_decode_step_seconds", "One step of the whole batch.", TPOT_BUCKETS)
        self.tokens = Counter(
            "prfaas_decoded_tokens", "Tokens sampled by this worker.", ["model_name"], registry=registry
        ).labels(model_name)  # fmt: skip
        self._ended = Counter(
            "prfaas_decode_requests", "Accepted requests, by how they ended.", ["model_name", "result"], registry=registry
        )
        self._model_name = model_name

    def ended(self, result: str) -> None:
        """`result`: stop, length, cancelled, or the code of a failure such as engine, text or deadline."""
        self._ended.labels(self._model_name, result).inc()


class PrefillMetrics:
    """A prefill worker's jobs. One worker serves one model."""

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
        self._jobs = Counter("prfaas_prefill_jobs", "Jobs taken, by how they ended.", ["model_name", "result"], registry=registry)
        self._model_name = model_name

    def job(self, result: str) -> None:
        """`result`: done, cancelled, expired, failed, redelivered."""
        self._jobs.labels(self._model_name, result).inc()


class TransferMetrics:
    """KV that arrived, or did not: the decode worker's view. Recorded once per attempt, not per frame."""

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

    def verified(
        self,
        source: str,
        destination: str,
        *,
        received_bytes: int,
        frames: int,
        lossy_frames: int,
        reused_tokens: int,
        saved_bytes: int,
        duration_s: float,
        residual_s: float,
    ) -> None:
        self._count(source, destination, "verified", received_bytes, frames)
        if lossy_frames:
            self._lossy.labels(source, destination).inc()
        self._reused.labels(source, destination).inc(reused_tokens)
        self._saved.labels(source, destination).inc(saved_bytes)
        self._size.labels(source, destination).observe(received_bytes)
        self._duration.labels(source, destination).observe(duration_s)
        self._residual.labels(source, destination).observe(residual_s)
        self._overlap.labels(source, destination).observe(overlap_ratio(duration_s, residual_s))

    def failed(self, source: str, destination: str, *, result: str, received_bytes: int, frames: int) -> None:
        """`result`: timeout, corrupt, prefill_failed, cancelled."""
        self._count(source, destination, result, received_bytes, frames)

    def _count(self, source: str, destination: str, result: str, received_bytes: int, frames: int) -> None:
        self._attempts.labels(source, destination, result).inc()
        self._bytes.labels(source, destination, result).inc(received_bytes)
        self._frames.labels(source, destination, result).inc(frames)


def watch_bucket(
    registry: CollectorRegistry,
    site: str,
    *,
    stored_bytes: Callable[[], float],
    leaked_bytes: Callable[[], float],
    reclaimed_messages: Callable[[], float],
) -> None:
    """The site's KV bucket as one of its decode workers last saw it. Leaked must read 0: objects that outlived their request."""
    for name, text, read in (
        ("prfaas_kv_stored_bytes", "KV under way in the site's bucket.", stored_bytes),
        ("prfaas_kv_leaked_bytes", "KV whose reader is gone and that a sweep failed to remove.", leaked_bytes),
        ("prfaas_kv_reclaimed_messages", "Messages that sweeps removed since the start.", reclaimed_messages),
    ):
        Gauge(name, text, ["site"], registry=registry).labels(site).set_function(read)


class SendMetrics:
    """KV that left: the prefill worker's view."""

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


class SchedulerMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._placements = Counter("prfaas_placements", "Placements by outcome.", ["outcome", "prefill_site"], registry=registry)
        self._refusals = Counter("prfaas_placement_refusals", "Requests refused, by code.", ["code"], registry=registry)
        self.decision_s = Histogram(
            "prfaas_placement_seconds", "Deciding one placement.", registry=registry,
            buckets=(1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 1e-1),
        )  # fmt: skip
        self.workers = Gauge("prfaas_workers", "Workers with a fresh heartbeat.", ["site", "role"], registry=registry)
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

    def move(self, to_role: str, result: str) -> None:
        """`result`: begun, then one of done, refused, kept, lost."""
        self._moves.labels(to_role, result).inc()

    def snapshot(self, result: str) -> None:
        """`result`: told, failed."""
        self._snapshots.labels(result).inc()

    def placed(self, outcome: Outcome, prefill_site: str) -> None:
        self._placements.labels(outcome.value, prefill_site).inc()

    def refused(self, code: str) -> None:
        self._refusals.labels(code).inc()


class LinkMetrics:
    """A bandwidth probe's estimates."""

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
        self._failures = Counter("prfaas_link_probe_failures", "Probes without an answer in time.", link, registry=registry)

    def estimated(
        self,
        source: str,
        destination: str,
        *,
        rtt_s: float,
        jitter_s: float,
        goodput_bytes_per_s: float,
        confidence: float,
        retransmit_share: float | None,
    ) -> None:
        self._rtt.labels(source, destination).set(rtt_s)
        self._jitter.labels(source, destination).set(jitter_s)
        self._goodput.labels(source, destination).set(goodput_bytes_per_s)
        self._confidence.labels(source, destination).set(confidence)
        if retransmit_share is not None:
            self._retransmits.labels(source, destination).set(retransmit_share)

    def leased(self, source: str, destination: str, bytes_per_s: float) -> None:
        self._leased.labels(source, destination).set(bytes_per_s)

    def probe_failed(self, source: str, destination: str) -> None:
        self._failures.labels(source, destination).inc()


def overlap_ratio(duration_s: float, residual_s: float) -> float:
    """Share of a transfer that lay within prefill, 0 to 1: 1 - residual / duration. A transfer that took no time hid wholly."""
    if duration_s <= 0:
        return 1.0
    return min(1.0, max(0.0, 1 - residual_s / duration_s))
