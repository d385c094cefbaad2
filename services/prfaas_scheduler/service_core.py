"""The scheduler's decisions, pure: events in, instructions out, no socket, clock or loop inside."""

from dataclasses import dataclass, replace
from typing import overload

from prfaas.contracts.codes import OUT_OF_TIME, FailureCode
from prfaas.contracts.terms import Role
from prfaas.contracts.to_gateway import Placement, Refusal
from prfaas.contracts.to_scheduler import AttemptEnded, BlocksChanged, BlocksHeld, Heartbeat, LinkEstimate, PlaceRequest
from prfaas.kvcache.blocks import unpack_hashes
from prfaas_scheduler.block_directory import MAX_BLOCKS, Level
from prfaas_scheduler.candidates import PrefillSite, Route
from prfaas_scheduler.fleet import Fleet, PlacedPrefill
from prfaas_scheduler.policies.base import Candidates, Policy
from prfaas_scheduler.pools import DecodePool

RETRY_AFTER_S = 1.0
UNKNOWN_SHARE = 0.5
"""Of the TTFT deadline that a remote attempt may use while nothing is known of the local site's speed."""
MIN_SHARE, MAX_SHARE = 0.3, 0.7
"""Bounds of that share once something is known: predictions are no promises."""
DEFERRED_SHARE = 0.4
"""Of the TTFT deadline that a deferred prompt waits for an idle worker. Then it is as good as any other, and has time enough for
the queue, which holds no more than the TTFT objective, and for one more attempt."""
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


@dataclass(frozen=True, slots=True)
class CacheChanged:
    now_s: float
    changed: BlocksChanged


@dataclass(frozen=True, slots=True)
class CacheTold:
    """The answer to AskBlocks, if there was one."""

    now_s: float
    key: str
    held: BlocksHeld


@dataclass(frozen=True, slots=True)
class LinkLost:
    now_s: float
    key: str
    """LinkEstimate.key"""


Event = HeartbeatHeard | WorkerGone | LinkMeasured | LinkLost | PlaceAsked | AttemptOver | CacheChanged | CacheTold


@dataclass(frozen=True, slots=True)
class Answer:
    request_id: str
    answer: Placement | Refusal
    cached_tokens: int = 0
    """Of the prompt: what the worker that is to prefill it has cached, as far as is known."""


@dataclass(frozen=True, slots=True)
class AskBlocks:
    """A worker is to say what its cache holds. Nobody has to answer: it is asked again, more and more rarely."""

    site: str
    role: Role
    worker: str
    key: str


class SchedulerCore:
    """One pd site's scheduler."""

    def __init__(self, site: str, policy: Policy, max_blocks: int = MAX_BLOCKS) -> None:
        self.fleet = Fleet(site, max_blocks)
        self.policy = policy

    @overload
    def handle(self, event: PlaceAsked) -> list[Answer]: ...

    @overload
    def handle(self, event: HeartbeatHeard | CacheChanged) -> list[AskBlocks]: ...

    @overload
    def handle(self, event: Event) -> list[Answer | AskBlocks]: ...

    def handle(self, event: Event) -> list[Answer] | list[AskBlocks] | list[Answer | AskBlocks]:
        self.fleet.advance(event.now_s)
        match event:
            case HeartbeatHeard(now_s, beat):
                self.fleet.hear(beat)
                if self.fleet.directory.doubtful(beat.key, now_s):
                    return [AskBlocks(beat.site, beat.role, beat.worker, beat.key)]
            case CacheChanged(now_s, changed):
                key = f"{changed.site}.{changed.role}.{changed.worker}"
                if self.fleet.directory.change(key, changed, now_s):
                    return [AskBlocks(changed.site, changed.role, changed.worker, key)]
            case CacheTold(_, key, held):
                self.fleet.directory.hold(key, held)
            case WorkerGone(_, key):
                self.fleet.forget(key)
            case LinkMeasured(_, estimate):
                self.fleet.measure(estimate)
            case LinkLost(_, key):
                self.fleet.lose_link(key)
            case PlaceAsked(now_s, request):
                return [self._place(request, now_s)]
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
            elif ended.code == FailureCode.CANCELLED or (prefill and prefill.deferred and ended.code in OUT_OF_TIME):
                breaker.forgotten(ended.request_id)
            else:
                breaker.failed(ended.request_id, now_s)
        if prefill is not None and ended.next_site is not None:
            sites = self.fleet.prefill_sites(prefill.model, prefill.fingerprint)
            next_site = sites.get(ended.next_site)
            if next_site is not None:
                prefill = replace(prefill, site=next_site.site, deferred=False)
                self.fleet.place(ended.request_id, next_site, prefill, next_site.route(prefill.tokens))

    def _place(self, request: PlaceRequest, now_s: float) -> Answer:
        self.fleet.take_back(request.request_id)  # placed before, with a decode worker that refused it
        found = self._find(request)
        decoders = self.fleet.decoders(request.model)
        pool = decoders.without(request.refused_by) if decoders and request.refused_by else decoders
        refusal = self._full(request, pool)
        if refusal is not None or pool is None or decoders is None:
            assert refusal is not None
            return Answer(request.request_id, refusal)
        decoder, decode_tokens = self.fleet.decoder(pool, found, request.block_tokens, request.prompt_tokens)
        prefill_tokens = request.prompt_tokens - 1
        fingerprint = decoder.beat.fingerprint
        sites = self.fleet.prefill_sites(request.model, fingerprint, found, request.block_tokens, decode_tokens)
        if not sites:
            refusal = Refusal(
                code=FailureCode.NO_PREFILL_WORKER,
                message=f"no live prefill worker makes KV that decode worker {decoder.beat.worker!r} can install "
                f"(fingerprint {fingerprint})",
                retry_after_s=RETRY_AFTER_S,
            )
            return Answer(request.request_id, refusal)
        local = sites.pop(self.fleet.site, None)
        remotes = [site for site in sites.values() if self.fleet.remembered(site.site).breaker.allows(now_s)]
        if local is None and not remotes:
            remotes = list(sites.values())  # better a link that just failed than a refusal
        choice = self.policy.choose(prefill_tokens, Candidates(local, remotes))
        chosen = choice.site
        route = chosen.deferred_route(prefill_tokens) if choice.deferred else chosen.route(prefill_tokens)
        deferred_s = DEFERRED_SHARE * request.ttft_deadline_s if choice.deferred else 0.0
        if chosen is not local:
            self.fleet.remembered(chosen.site).breaker.placed(request.request_id, now_s)
        if prefill_tokens:
            until_s = now_s + request.ttft_deadline_s
            prefill = PlacedPrefill(chosen.site, request.model, fingerprint, prefill_tokens, until_s, choice.deferred)
            self.fleet.place(request.request_id, chosen, prefill, route)
        decoder.placed_requests += 1
        decoders.put(decoder)
        fallback = local if chosen is not local else None
        placement = Placement(
            transfer_id=request.request_id,
            prefill_site=chosen.site,
            prefill_worker=route.worker,
            fallback_site=fallback.site if fallback else None,
            decode_worker=decoder.beat.worker,
            outcome=choice.outcome,
            reason=choice.reason + _cached(route, prefill_tokens, decoder.beat.worker, decode_tokens),
            fallback_after_s=_fallback_after_s(request.ttft_deadline_s - deferred_s, fallback, prefill_tokens),
            deferred_s=deferred_s,
        )
        return Answer(request.request_id, placement, route.cached_tokens)

    def _find(self, request: PlaceRequest) -> list[Level]:
        """Who has how many whole blocks of what is to be prefilled: all tokens but the last."""
        if not request.block_hashes or not request.block_tokens:
            return []
        hashes = unpack_hashes(request.block_hashes)
        return self.fleet.directory.find(hashes[: (request.prompt_tokens - 1) // request.block_tokens])

    def _full(self, request: PlaceRequest, decoders: DecodePool | None) -> Refusal | None:
        if decoders is None:
            known = "none of its decode workers is alive" if self.fleet.serves(request.model) else "no worker has announced it"
            return Refusal(
                code=FailureCode.NO_DECODE_WORKER,
                message=f"model {request.model!r} cannot be served now: {known}",
                retry_after_s=RETRY_AFTER_S,
            )
        if not decoders:
            refused = f"all decode workers of model {request.model!r} refused the request: {', '.join(request.refused_by)}"
            return Refusal(code=FailureCode.OVERLOADED, message=refused, retry_after_s=RETRY_AFTER_S)
        least = decoders.least_loaded()
        if least.load < least.beat.slots + least.beat.waiting_limit:
            return None
        return Refusal(
            code=FailureCode.OVERLOADED,
            message=f"all {len(decoders)} decode workers are full: the least loaded has {least.load} requests "
            f"for {least.beat.slots} slots and {least.beat.waiting_limit} places to wait",
            retry_after_s=RETRY_AFTER_S,
        )


def _cached(route: Route, prefill_tokens: int, decode_worker: str, decode_tokens: int) -> str:
    """For the reason: what caches have of the prompt, if anything."""
    said = ""
    if route.cached_tokens:
        said = f"; {route.cached_tokens} of {prefill_tokens} tokens cached at {route.worker or 'every prefill worker there'}"
    return said + (f"; {decode_tokens} at decode worker {decode_worker}" if decode_tokens else "")


def _fallback_after_s(deadline_s: float, fallback: PrefillSite | None, prefill_tokens: int) -> float:
    """How long a remote attempt may take, so that the local site can still keep the deadline afterwards. Where it could not keep
    it anyway, the remote attempt is the better chance."""
    if fallback is None:
        return deadline_s
    work_s = fallback.work_s(prefill_tokens)
    if work_s is None:
        return deadline_s * UNKNOWN_SHARE
    spare_s = deadline_s - LOCAL_SLACK * (fallback.wait_s + work_s)
    return min(max(spare_s, deadline_s * MIN_SHARE), deadline_s * MAX_SHARE) if spare_s > 0 else deadline_s * MAX_SHARE
