"""Stages of one request as a waterfall, from the gateway's own moments and what the decode worker said of the rest. Pure.

Durations of the prefill and of its KV come from other machines. They are laid out backwards from the moment at which the cache
was whole, so no clock but the gateway's says when. Where they do not fit between the placement and that moment they are cut.
"""

from collections.abc import Iterable

from prfaas.console.schema import Stage
from prfaas_gateway.console.seen_request import SeenRequest


def stages_of(seen: SeenRequest, site: str, now_s: float) -> tuple[Stage, ...]:
    """Returns the stages in their order, up to `now_s` where the request is under way."""
    arrived_at = seen.arrived_at
    end_s = (seen.ended_at if seen.ended_at is not None else now_s) - arrived_at

    def since(moment: float | None) -> float:
        return end_s if moment is None else min(max(0.0, moment - arrived_at), end_s)

    # Before the prefill: the gateway's own moments.
    tokenized_s, accepted_s = since(seen.tokenized_at), since(seen.accepted_at)
    stages = [
        Stage(name="read and tokenize", place=site, start_s=0.0, end_s=tokenized_s, detail=f"{seen.prompt_tokens:,} tokens")
    ]
    if seen.tokenized_at is not None:
        stages += [Stage(name="placement", place=site, start_s=tokenized_s, end_s=accepted_s, detail=seen.reason)]
    # The prefill and its KV.
    started_s = since(seen.started_at)
    if seen.accepted_at is not None and seen.started_at is None:
        where = seen.placed_site or site
        stages += [Stage(name="queue, prefill, KV", place=where, start_s=accepted_s, end_s=started_s, detail="under way")]
    elif seen.started_at is not None:
        stages += _prefill(seen, site, accepted_s, started_s)
    # The answer.
    if seen.started_at is not None:
        first_s = since(seen.first_token_at)
        stages += [Stage(name="first token", place=seen.decode_worker, start_s=started_s, end_s=first_s)]
    if seen.first_token_at is not None:
        detail = f"{seen.completion_tokens:,} tokens"
        start_s = since(seen.first_token_at)
        stages += [Stage(name="decode", place=seen.decode_worker, start_s=start_s, end_s=end_s, detail=detail)]
    return tuple(stages)


def _prefill(seen: SeenRequest, site: str, accepted_s: float, started_s: float) -> list[Stage]:
    def within(moment_s: float) -> float:
        return min(max(accepted_s, moment_s), started_s)

    where = seen.prefill_site or seen.placed_site
    if not seen.prefill_s:
        detail = "details come with the end of the answer" if seen.ended_at is None else "no details were told"
        return [Stage(name="queue, prefill, KV", place=where, start_s=accepted_s, end_s=started_s, detail=detail)]
    prefilled_s = within(started_s - seen.residual_s)
    prefill_s = within(prefilled_s - seen.prefill_s)
    queued_s = within(prefill_s - seen.queue_s)
    shipping_s = within(started_s - seen.transfer_s)
    computed = f"{max(0, seen.prompt_tokens - 1 - seen.cached_tokens):,} tokens computed, {seen.cached_tokens:,} cached"
    way = where if where == site else f"{where} → {site}"
    shipped = f"{seen.kv_bytes:,} bytes in {seen.frames:,} frames"
    if seen.attempts > 1:
        shipped += f", attempt {seen.attempts}"
    chunks = _moments((prefill_s + after_s for after_s, _ in seen.chunks), prefill_s, prefilled_s)
    arrival = _moments((shipping_s + after_s for after_s, _ in seen.arrival), shipping_s, started_s)
    return [
        Stage(name="queue", place=where, start_s=queued_s, end_s=prefill_s),
        Stage(name="prefill", place=where, start_s=prefill_s, end_s=prefilled_s, detail=computed, marks=chunks),
        Stage(name="KV", place=way, start_s=shipping_s, end_s=started_s, detail=shipped, marks=arrival),
    ]


def _moments(moments: Iterable[float], first_s: float, last_s: float) -> tuple[float, ...]:
    return tuple(round(min(max(first_s, moment), last_s), 6) for moment in moments)
