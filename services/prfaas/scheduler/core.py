"""The scheduler's decisions, pure: events in, instructions out, no socket, clock or loop inside."""

from dataclasses import dataclass

from prfaas.contracts.to_scheduler import (
    Heartbeat,
    LinkEstimate,
    Placement,
    PlaceRequest,
    Refusal,
    Role,
)
from prfaas.scheduler.fleet import Fleet, Worker
from prfaas.scheduler.policies import Candidates, Policy

RETRY_AFTER_S = 1.0
FALLBACK_SHARE = 0.5
"""Of the TTFT deadline that a remote attempt may use while nothing is known of the local site's speed."""
MAX_FALLBACK_SHARE = 0.7
"""Of the TTFT deadline, however fast the local site is: predictions are no promises."""
LOCAL_SLACK = 1.5
"""A local prefill may take this many times its prediction before the client's deadline breaks."""


@dataclass(frozen=True, slots=True)
class HeartbeatHeard:
    now_s: float
    beat: Heartbeat


@dataclass(frozen=True, slots=True)
class WorkerGone:
    now_s: float
    key: str


@dataclass(frozen=True, slots=True)
class LinkMeasured:
    now_s: float
    estimate: LinkEstimate


@dataclass(frozen=True, slots=True)
class PlaceAsked:
    now_s: float
    request: PlaceRequest


Event = HeartbeatHeard | WorkerGone | LinkMeasured | PlaceAsked


@dataclass(frozen=True, slots=True)
class Answer:
    request_id: str
    answer: Placement | Refusal


class SchedulerCore:
    """One pd site's scheduler."""

    def __init__(self, site: str, policy: Policy) -> None:
        self.fleet = Fleet(site)
        self.policy = policy

    def handle(self, event: Event) -> list[Answer]:
        match event:
            case HeartbeatHeard(now_s, beat):
                self.fleet.hear(beat, now_s)
            case WorkerGone(_, key):
                self.fleet.forget(key)
            case LinkMeasured(now_s, estimate):
                self.fleet.measure(estimate, now_s)
            case PlaceAsked(now_s, request):
                return [Answer(request.request_id, self._place(request, now_s))]
        return []

    def validate(self) -> None:
        for key, worker in self.fleet.workers.items():
            assert key == worker.beat.key
            assert worker.placed_tokens >= 0 and worker.placed_requests >= 0

    def _place(self, request: PlaceRequest, now_s: float) -> Placement | Refusal:
        decoders = self.fleet.alive(Role.DECODE, request.model, now_s)
        if not decoders:
            known = "none of its decode workers is alive" if self.fleet.serves(request.model) else "no worker has announced it"
            return Refusal(
                code="no_decode_worker",
                message=f"model {request.model!r} cannot be served now: {known}",
                retry_after_s=RETRY_AFTER_S,
            )
        decoder = min(decoders, key=lambda worker: (worker.load - worker.beat.slots, worker.beat.worker))
        if decoder.load >= decoder.beat.slots + decoder.beat.waiting_limit:
            return Refusal(
                code="overloaded",
                message=f"all {len(decoders)} decode workers are full: the least loaded has {decoder.load} requests "
                f"for {decoder.beat.slots} slots and {decoder.beat.waiting_limit} places to wait",
                retry_after_s=RETRY_AFTER_S,
            )
        placement = self._prefill_for(request, decoder, now_s)
        if isinstance(placement, Placement):
            decoder.placed_requests += 1
        return placement

    def _prefill_for(self, request: PlaceRequest, decoder: Worker, now_s: float) -> Placement | Refusal:
        here = self.fleet.site
        prefill_tokens = request.prompt_tokens - 1
        sites = self.fleet.prefill_sites(request.model, decoder.beat.fingerprint, now_s)
        if not sites:
            return Refusal(
                code="no_prefill_worker",
                message=f"no live prefill worker makes KV that decode worker {decoder.beat.worker!r} can install "
                f"(fingerprint {decoder.beat.fingerprint})",
                retry_after_s=RETRY_AFTER_S,
            )
        local = sites.pop(here, None)
        choice = self.policy.choose(prefill_tokens, Candidates(local, list(sites.values())))
        chosen = local if local is not None and choice.site == here else sites[choice.site]
        target = min(chosen.workers, key=lambda worker: (worker.queued_tokens, worker.beat.worker))
        target.placed_tokens += prefill_tokens

        deadline_s = request.ttft_deadline_s
        fallback_after_s = deadline_s
        if choice.site != here and local is not None:
            local_s = local.prefill_s(prefill_tokens)
            spare_s = deadline_s * FALLBACK_SHARE if local_s is None else deadline_s - LOCAL_SLACK * local_s
            # Even when the local site would be too slow to save the deadline, the remote attempt gets a fair try.
            fallback_after_s = min(max(spare_s, deadline_s * (1 - MAX_FALLBACK_SHARE)), deadline_s * MAX_FALLBACK_SHARE)
        return Placement(
            transfer_id=request.request_id,
            prefill_site=choice.site,
            fallback_site=here if choice.site != here and local is not None else None,
            decode_worker=decoder.beat.worker,
            outcome=choice.outcome,
            reason=choice.reason,
            fallback_after_s=fallback_after_s,
        )
