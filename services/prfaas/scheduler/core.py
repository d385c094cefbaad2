"""The scheduler's decisions, pure: events in, instructions out, no socket, clock or loop inside."""

from dataclasses import dataclass, replace

from prfaas.contracts.to_scheduler import (
    AttemptEnded,
    Heartbeat,
    LinkEstimate,
    Placement,
    PlaceRequest,
    Refusal,
)
from prfaas.scheduler.fleet import Fleet, PlacedPrefill, PrefillSite
from prfaas.scheduler.policies import Candidates, Policy
from prfaas.scheduler.pools import Worker

RETRY_AFTER_S = 1.0
UNKNOWN_SHARE = 0.5
"""Of the TTFT deadline that a remote attempt may use while nothing is known of the local site's speed."""
MIN_SHARE, MAX_SHARE = 0.3, 0.7
"""Bounds of that share once something is known: predictions are no promises."""
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


@dataclass(frozen=True, slots=True)
class AttemptOver:
    now_s: float
    ended: AttemptEnded


Event = HeartbeatHeard | WorkerGone | LinkMeasured | PlaceAsked | AttemptOver


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
        self.fleet.advance(event.now_s)
        match event:
            case HeartbeatHeard(_, beat):
                self.fleet.hear(beat)
            case WorkerGone(_, key):
                self.fleet.forget(key)
            case LinkMeasured(_, estimate):
                self.fleet.measure(estimate)
            case PlaceAsked(now_s, request):
                return [Answer(request.request_id, self._place(request, now_s))]
            case AttemptOver(now_s, ended):
                self._attempt_over(ended, now_s)
        return []

    def validate(self) -> None:
        self.fleet.validate()

    def _attempt_over(self, ended: AttemptEnded, now_s: float) -> None:
        prefill = self.fleet.take_back(ended.request_id)
        if ended.site != self.fleet.site:
            breaker = self.fleet.remembered(ended.site).breaker
            if ended.verified:
                breaker.succeeded()
            elif ended.code == "cancelled":
                breaker.forgotten(ended.request_id)
            else:
                breaker.failed(ended.request_id, now_s)
        if prefill is not None and ended.next_site is not None:
            sites = self.fleet.prefill_sites(prefill.model, prefill.fingerprint)
            if ended.next_site in sites:
                self.fleet.place(ended.request_id, sites[ended.next_site], replace(prefill, site=ended.next_site))

    def _place(self, request: PlaceRequest, now_s: float) -> Placement | Refusal:
        decoders = self.fleet.decoders(request.model)
        if decoders is None:
            known = "none of its decode workers is alive" if self.fleet.serves(request.model) else "no worker has announced it"
            return Refusal(
                code="no_decode_worker",
                message=f"model {request.model!r} cannot be served now: {known}",
                retry_after_s=RETRY_AFTER_S,
            )
        decoder = decoders.least_loaded()
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
            decoders.put(decoder)
        return placement

    def _prefill_for(self, request: PlaceRequest, decoder: Worker, now_s: float) -> Placement | Refusal:
        here = self.fleet.site
        prefill_tokens = request.prompt_tokens - 1
        sites = self.fleet.prefill_sites(request.model, decoder.beat.fingerprint)
        if not sites:
            return Refusal(
                code="no_prefill_worker",
                message=f"no live prefill worker makes KV that decode worker {decoder.beat.worker!r} can install "
                f"(fingerprint {decoder.beat.fingerprint})",
                retry_after_s=RETRY_AFTER_S,
            )
        local = sites.pop(here, None)
        remotes = [site for site in sites.values() if self.fleet.remembered(site.site).breaker.allows(now_s)]
        if local is None and not remotes:
            remotes = list(sites.values())  # better a link that just failed than a refusal
        choice = self.policy.choose(prefill_tokens, Candidates(local, remotes))
        chosen = choice.site
        if chosen is not local:
            self.fleet.remembered(chosen.site).breaker.placed(request.request_id, now_s)
        if prefill_tokens and request.request_id not in self.fleet.placed:
            until_s = now_s + request.ttft_deadline_s
            prefill = PlacedPrefill(chosen.site, request.model, decoder.beat.fingerprint, prefill_tokens, until_s)
            self.fleet.place(request.request_id, chosen, prefill)

        fallback = local if chosen is not local else None
        return Placement(
            transfer_id=request.request_id,
            prefill_site=chosen.site,
            fallback_site=fallback.site if fallback else None,
            decode_worker=decoder.beat.worker,
            outcome=choice.outcome,
            reason=choice.reason,
            fallback_after_s=_fallback_after_s(request.ttft_deadline_s, fallback, prefill_tokens),
        )


def _fallback_after_s(deadline_s: float, fallback: PrefillSite | None, prefill_tokens: int) -> float:
    """How long a remote attempt may take, so that the local site can still keep the deadline afterwards. Where it could not keep
    it anyway, the remote attempt is the better chance."""
    if fallback is None:
        return deadline_s
    local_s = fallback.prefill_s(prefill_tokens)
    if local_s is None:
        return deadline_s * UNKNOWN_SHARE
    spare_s = deadline_s - LOCAL_SLACK * local_s
    return min(max(spare_s, deadline_s * MIN_SHARE), deadline_s * MAX_SHARE) if spare_s > 0 else deadline_s * MAX_SHARE
