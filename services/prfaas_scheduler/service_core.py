"""The scheduler's decisions, pure: events in, instructions out, no socket, clock or loop inside."""

from dataclasses import replace
from typing import overload

from prfaas.contracts.codes import TOO_MANY, FailureCode
from prfaas.contracts.kv import PrefixSource
from prfaas.contracts.to_gateway import Placement, Refusal
from prfaas.contracts.to_scheduler import AttemptEnded, PlaceRequest
from prfaas.kvcache.blocks import unpack_hashes
from prfaas_scheduler.block_directory import MAX_BLOCKS
from prfaas_scheduler.candidates import Candidate, Route, Source
from prfaas_scheduler.events import (
    Answer,
    AttemptOver,
    CacheChanged,
    CacheListed,
    Event,
    HeartbeatReceived,
    Instruction,
    LinkLost,
    LinkMeasured,
    PlacementRequested,
    QueueSeen,
    RequestCacheList,
    SiteDistrusted,
    WorkerGone,
)
from prfaas_scheduler.fleet import Decoder, Fleet
from prfaas_scheduler.placed_prefill import PlacedPrefill
from prfaas_scheduler.policies.base import Candidates, Choice, Policy
from prfaas_scheduler.prompt import Prompt
from prfaas_scheduler.pull_sources import NO_PULLS, PullOptions

RETRY_AFTER_S = 1.0
UNKNOWN_SHARE = 0.5
"""Share of the TTFT deadline that a remote attempt may use while nothing is known of the local site's speed."""
MIN_SHARE, MAX_SHARE = 0.3, 0.7
"""Bounds of that share once something is known: predictions are no promises."""
PULL_SLACK, PULL_LEAST_S = 1.5, 0.25
"""A pull may take this many times its prediction, and this much more."""
LOCAL_SLACK = 1.5
"""A local prefill may take this many times its prediction before the client's deadline breaks."""


class SchedulerCore:
    """One pd site's scheduler."""

    def __init__(
        self,
        site: str,
        policy: Policy,
        max_blocks: int = MAX_BLOCKS,
        tpot_objective_s: float = 0.0,
        pulls: PullOptions = NO_PULLS,
    ) -> None:
        self.fleet = Fleet(site, max_blocks, tpot_objective_s, pulls)
        self.policy = policy

    @overload
    def handle(self, event: PlacementRequested) -> list[Answer]: ...

    @overload
    def handle(self, event: HeartbeatReceived | CacheChanged) -> list[RequestCacheList]: ...

    @overload
    def handle(self, event: Event) -> list[Instruction]: ...

    def handle(self, event: Event) -> list[Answer] | list[RequestCacheList] | list[Instruction]:
        self.fleet.advance(event.now_s)
        match event:
            case HeartbeatReceived(now_s, beat):
                if self.fleet.update_worker(beat) and self.fleet.directory.needs_list(beat.key, now_s):
                    return [RequestCacheList(beat.site, beat.role, beat.worker, beat.key)]
            case CacheChanged(now_s, changed):
                key = f"{changed.site}.{changed.role}.{changed.worker}"
                if self.fleet.directory.apply(key, changed, now_s):
                    return [RequestCacheList(changed.site, changed.role, changed.worker, key)]
            case CacheListed(_, key, held):
                self.fleet.directory.replace(key, held)
            case WorkerGone(_, key):
                self.fleet.remove_worker(key)
            case LinkMeasured(_, estimate):
                self.fleet.update_link(estimate)
            case LinkLost(_, key):
                self.fleet.remove_link(key)
            case QueueSeen(_, state):
                self.fleet.update_queue(state)
            case PlacementRequested(now_s, request):
                return [self._place(request, now_s)]
            case AttemptOver(now_s, ended):
                self._attempt_over(ended, now_s)
            case SiteDistrusted(now_s, site):
                # A name in a report is no reason to remember a site. The own one has no breaker: it answers in any case.
                if site != self.fleet.site and (known := self.fleet.sites.get(site)) is not None:
                    known.breaker.distrust(now_s)
        return []

    def distrusted_sites(self, now_s: float) -> int:
        """Returns the number of sites that get no prompts because their KV was found wrong."""
        return sum(known.breaker.distrusts(now_s) for known in self.fleet.sites.values())

    def validate(self) -> None:
        self.fleet.validate()

    # ---- attempts

    def _attempt_over(self, ended: AttemptEnded, now_s: float) -> None:
        prefill = self.fleet.remove_placement(ended.request_id)
        # What the end says about the link to a remote site. A name in a report is no reason to remember a site.
        known = self.fleet.sites.get(ended.site) if ended.site != self.fleet.site else None
        if known is not None:
            breaker = known.breaker
            if ended.verified:
                breaker.succeeded()
            elif ended.code == FailureCode.CANCELLED or ended.code in TOO_MANY:
                # The client left, or no worker had time for the prompt: that says nothing about the link.
                breaker.abandoned(ended.request_id)
            else:
                breaker.failed(ended.request_id, now_s)
        # The next attempt is in the queue of its site now.
        if prefill is not None and ended.next_site is not None:
            prompt = Prompt(prefill.tokens + 1)
            next_one = self.fleet.candidates(prompt, prefill.model, prefill.fingerprint).get(ended.next_site)
            if next_one is not None:
                prefill = replace(prefill, site=next_one.name)
                self.fleet.add_placement(ended.request_id, next_one, prefill)

    # ---- placements

    def _place(self, request: PlaceRequest, now_s: float) -> Answer:
        self.fleet.withdraw(request.request_id)  # placed before, with a decode worker that refused it
        prompt = self._prompt(request)
        decoder = self._find_decoder(request, prompt)
        if isinstance(decoder, Refusal):
            return Answer(request.request_id, decoder)
        prompt = prompt._replace(decode_tokens=decoder.cached_tokens)
        candidates = self._find_candidates(prompt, decoder, now_s)
        if isinstance(candidates, Refusal):
            return Answer(request.request_id, candidates)
        if (too_late := _too_late(request, decoder, candidates)) is not None:
            return Answer(request.request_id, too_late)
        choice = self.policy.choose(prompt, candidates)
        if choice.shed_for_s is not None:
            return Answer(request.request_id, _not_in_time(choice.reason, choice.shed_for_s))
        self._record(request, decoder, choice, now_s)
        cached_tokens = choice.candidate.route.cached_tokens
        return Answer(request.request_id, _placement(request, decoder, candidates, choice), cached_tokens)

    def _prompt(self, request: PlaceRequest) -> Prompt:
        if not request.block_hashes or not request.block_tokens:
            return Prompt(request.prompt_tokens)
        # The last token is never prefilled, so a block that ends with it is of no use.
        hashes = unpack_hashes(request.block_hashes)[: (request.prompt_tokens - 1) // request.block_tokens]
        return Prompt(request.prompt_tokens, request.block_tokens, self.fleet.directory.find(hashes))

    def _find_decoder(self, request: PlaceRequest, prompt: Prompt) -> Decoder | Refusal:
        pool = self.fleet.decode_pool(request.model)
        if pool is None:
            known = "none of its decode workers is alive" if self.fleet.serves(request.model) else "no worker has announced it"
            message = f"model {request.model!r} cannot be served now: {known}"
            return Refusal(code=FailureCode.NO_DECODE_WORKER, message=message, retry_after_s=RETRY_AFTER_S)
        if request.refused_by:
            pool = pool.without(request.refused_by)
        if not pool:
            message = f"all decode workers of model {request.model!r} refused the request: {', '.join(request.refused_by)}"
            return Refusal(code=FailureCode.OVERLOADED, message=message, retry_after_s=RETRY_AFTER_S)
        least = pool.least_loaded()
        if least.load >= least.beat.slots + least.beat.waiting_limit:
            message = (
                f"all {len(pool)} decode workers are full: the least loaded has {least.load} requests "
                f"for {least.beat.slots} slots and {least.beat.waiting_limit} places to wait"
            )
            return Refusal(code=FailureCode.OVERLOADED, message=message, retry_after_s=RETRY_AFTER_S)
        return self.fleet.choose_decoder(pool, prompt)

    def _find_candidates(self, prompt: Prompt, decoder: Decoder, now_s: float) -> Candidates | Refusal:
        beat = decoder.worker.beat
        by_site = self.fleet.candidates(prompt, beat.model, beat.fingerprint)
        if not by_site:
            message = (
                f"no live prefill worker makes KV that decode worker {beat.worker!r} can install (fingerprint {beat.fingerprint})"
            )
            return Refusal(code=FailureCode.NO_PREFILL_WORKER, message=message, retry_after_s=RETRY_AFTER_S)
        local = by_site.pop(self.fleet.site, None)
        remotes = [remote for remote in by_site.values() if self.fleet.site_state(remote.name).breaker.allows(now_s)]
        if local is None and not remotes:
            remotes = list(by_site.values())  # better a link that just failed than a refusal
        return Candidates(local, remotes)

    def _record(self, request: PlaceRequest, decoder: Decoder, choice: Choice, now_s: float) -> None:
        chosen, beat = choice.candidate, decoder.worker.beat
        if chosen.prompt.prefill_tokens:
            if chosen.name != self.fleet.site:  # a prompt without prefill would try no link
                self.fleet.site_state(chosen.name).breaker.placed(request.request_id, now_s)
            prefill = PlacedPrefill(
                site=chosen.name,
                model=request.model,
                fingerprint=beat.fingerprint,
                tokens=chosen.prompt.prefill_tokens,
                expires_at=now_s + request.ttft_deadline_s,
                decoder=beat.key,
            )
            self.fleet.add_placement(request.request_id, chosen, prefill)
        self.fleet.count_request(decoder.worker)


def _too_late(request: PlaceRequest, decoder: Decoder, candidates: Candidates) -> Refusal | None:
    """Returns the refusal of a prompt to which no prefill worker of any site, or no decode worker, comes before its deadline, as
    predicted; None while a site has observed no prompts such as wait there.

    Its own prefill is not counted: a speed that was observed once, on a busy machine or at another length, would else refuse all
    later prompts, and nothing would be observed that mends it. A site's queue refuses what it cannot finish."""
    places = [*candidates.remotes] if candidates.local is None else [candidates.local, *candidates.remotes]
    if not all(place.site.foresees_wait for place in places):
        return None
    prefill_wait_s, decode_wait_s = min(place.route.wait_s for place in places), decoder.worker.place_wait_s
    wait_s, deadline_s = max(prefill_wait_s, decode_wait_s), request.ttft_deadline_s
    if wait_s <= deadline_s:
        return None
    who = "decode" if decode_wait_s == wait_s else "prefill"
    message = f"no {who} worker comes to it within {wait_s:.1f} s, and its first token is due in {deadline_s:.1f} s"
    return _not_in_time(message, wait_s - deadline_s)


def _not_in_time(message: str, late_s: float) -> Refusal:
    return Refusal(code=FailureCode.NOT_IN_TIME, message=message, retry_after_s=max(RETRY_AFTER_S, late_s))


def _placement(request: PlaceRequest, decoder: Decoder, candidates: Candidates, choice: Choice) -> Placement:
    route = choice.candidate.route
    local = candidates.local
    fallback = local if local is not None and choice.candidate.name != local.name else None
    return Placement(
        transfer_id=request.request_id,
        prefill_site=choice.candidate.name,
        prefill_worker=route.worker,
        pull=_source(route.pull),
        fallback_site=fallback.name if fallback else None,
        decode_worker=decoder.worker.beat.worker,
        outcome=choice.outcome,
        reason=choice.reason + _cached(route, choice.candidate.prompt, decoder),
        fallback_after_s=_fallback_after_s(request.ttft_deadline_s, fallback),
    )


def _cached(route: Route, prompt: Prompt, decoder: Decoder) -> str:
    """End of the reason: what caches have of the prompt, if anything."""
    end = ""
    if route.pull is not None:
        source = route.pull
        end += f"; {source.tokens} of {prompt.prefill_tokens} tokens are pulled from {source.worker} of {source.site}"
        end += f" in {source.pull_s:.2f} s"
    elif route.cached_tokens:
        where = route.worker or "every prefill worker there"
        end += f"; {route.cached_tokens} of {prompt.prefill_tokens} tokens cached at {where}"
    if decoder.cached_tokens:
        end += f"; {decoder.cached_tokens} at decode worker {decoder.worker.beat.worker}"
    return end


def _source(source: Source | None) -> PrefixSource | None:
    """Returns what a job is told of a pull. It is late somewhat after its prediction: half as long again, for what it is off."""
    if source is None:
        return None
    timeout_s = PULL_SLACK * source.pull_s + PULL_LEAST_S
    return PrefixSource(site=source.site, worker=source.worker, tokens=source.tokens, timeout_s=timeout_s)


def _fallback_after_s(timeout_s: float, fallback: Candidate | None) -> float:
    """Time that a remote attempt may take, so that the local site can still keep the deadline afterwards. Where it could not
    keep it anyway, the remote attempt is the better chance."""
    if fallback is None:
        return timeout_s
    work_s = fallback.site.work_s(fallback.prompt.prefill_tokens)
    if work_s is None:
        return timeout_s * UNKNOWN_SHARE
    spare_s = timeout_s - LOCAL_SLACK * (fallback.site.wait_s + work_s)
    if spare_s <= 0:
        return timeout_s * MAX_SHARE
    return min(max(spare_s, timeout_s * MIN_SHARE), timeout_s * MAX_SHARE)
