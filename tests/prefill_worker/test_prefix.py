"""A real prefill worker with a prefix cache: what it computes, what it ships, what it tells, and whose jobs it takes."""

import asyncio

from prfaas.contracts import subjects
from prfaas.contracts.to_scheduler import BlocksHeld, Heartbeat
from prfaas.kvcache.blocks import block_hashes, unpack_hashes
from tests.prefill_worker.prefix_place import BLOCK_TOKENS, DEADLINE_S, SITE, WORKER, Place, place, prompt

__all__ = ["place"]


async def test_a_shared_prefix_is_computed_once_and_shipped_as_asked(place: Place) -> None:
    first, second = prompt(200), prompt(200)[:150] + prompt(80, seed=1)
    assert (await place.prefill(first)).cached_tokens == 0
    whole = await place.prefill(second)
    rest = await place.prefill(second, from_token=128)
    more = await place.prefill(second[:192], from_token=128)  # all of it is cached
    assert [report.cached_tokens for report in (whole, rest, more)] == [128, 192, 192]
    assert [report.bytes for report in (whole, rest)] == [place.engine.layout.total_bytes(230, start) for start in (0, 128)]
    assert place.counted("vllm:prefix_cache_queries_total") == 200 + 230 + 230 + 192
    assert place.counted("vllm:prefix_cache_hits_total") == 128 + 192 + 192
    assert place.counted("prfaas_prefilled_tokens_total") == 200 + 102 + 38


async def test_equal_prompts_of_two_scopes_share_nothing(place: Place) -> None:
    reports = [await place.prefill(prompt(200), scope=scope) for scope in ("a", "b", "", "a", "b")]
    assert [report.cached_tokens for report in reports] == [0, 0, 0, 192, 192]


async def test_the_scheduler_hears_of_the_blocks(place: Place) -> None:
    await place.prefill(prompt(200))
    changed = await asyncio.wait_for(place.changed.get(), DEADLINE_S)
    assert (changed.site, changed.worker, changed.role, changed.sequence) == (SITE, WORKER, "prefill", 1)
    assert unpack_hashes(changed.stored) == block_hashes(prompt(200), BLOCK_TOKENS)
    held = await place.bus.request(subjects.held_blocks(SITE, "prefill", WORKER), None, BlocksHeld, DEADLINE_S)
    assert (held.incarnation, held.sequence, held.hashes) == (changed.incarnation, 1, changed.stored)


async def test_a_cached_prefix_is_no_part_of_the_observed_time(place: Place) -> None:
    await place.prefill(prompt(1000))
    await place.prefill(prompt(1010))
    beat: Heartbeat = place.worker._heartbeat()
    assert {round(tokens) for tokens, _ in beat.prefill_points} == {BLOCK_TOKENS, 1000, 1010 - 960}


async def test_a_worker_that_leaves_finishes_the_jobs_that_are_its_own(place: Place) -> None:
    receivers = [(await place.submit(prompt(200, seed)))[0] for seed in range(3)]
    await place.worker.lifecycle.finish()
    for receiver in receivers:
        await receiver.verified(DEADLINE_S)
        await receiver.close()
