"""A job that breaks ends alone: the decode worker hears of it, and the next job is prefilled."""

import asyncio
from typing import Any

import pytest
import torch

from prfaas.contracts import subjects
from prfaas.contracts.to_decode import PrefillDispatched, PrefillDone, PrefillFailed, PrefillProgress, PrefillStarted
from prfaas.contracts.to_prefill import CancelPrefill
from prfaas.engine.emulated import EmulatedEngine
from prfaas_prefill_worker.job_record import JobRecord, JobRecords
from prfaas_prefill_worker.service_core import PrefillCore
from tests.bus.submitting import dispatch_to
from tests.prefill_worker.prefix_place import DEADLINE_S, MODEL, SITE, WORKER, Place, place, prompt

__all__ = ["place"]


async def heard(place: Place) -> asyncio.Queue[PrefillProgress]:
    queue: asyncio.Queue[PrefillProgress] = asyncio.Queue()
    progress = subjects.progress_from(subjects.prefill_progress(SITE, "d1"), "*", "*")
    await place.bus.subscribe(progress, PrefillProgress, queue.put_nowait)
    return queue


async def failure(queue: asyncio.Queue[PrefillProgress]) -> PrefillFailed:
    while not isinstance(told := await asyncio.wait_for(queue.get(), DEADLINE_S), PrefillFailed):
        assert isinstance(told, PrefillDispatched | PrefillStarted | PrefillDone)
    return told


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no room for 4 GiB"), RuntimeError("a kernel broke"), MemoryError(), ValueError("x" * 10_000)],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_an_engine_raises_fails_its_job_only(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    prefill = EmulatedEngine.prefill

    def breaks_after_a_chunk(engine: EmulatedEngine, token_ids: Any, on_piece: Any, *args: Any, **kwargs: Any) -> None:
        if len(token_ids) == 111:
            prefill(engine, token_ids[:BROKEN_AFTER], on_piece, *args, **kwargs)
            raise error
        prefill(engine, token_ids, on_piece, *args, **kwargs)

    queue = await heard(place)
    monkeypatch.setattr(EmulatedEngine, "prefill", breaks_after_a_chunk)
    poisoned, _ = await place.submit(prompt(111))
    failed = await failure(queue)
    assert failed.code == "engine" and type(error).__name__ in failed.message and len(failed.message) <= 500
    await poisoned.close()
    monkeypatch.undo()
    await place.prefill(prompt(120, seed=1))
    assert place.registry.get_sample_value("prfaas_prefill_jobs_total", {"model_name": MODEL, "result": "failed"}) == 1


BROKEN_AFTER = 1
"""Tokens that the engine prefills before it breaks."""


async def test_a_job_that_cannot_even_be_begun_fails_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(core: PrefillCore, event: object) -> None:
        raise KeyError("what nothing foresaw")

    queue = await heard(place)
    with monkeypatch.context() as broken:
        broken.setattr(PrefillCore, "handle", breaks)
        reader, _ = await place.submit(prompt(70))
        failed = await failure(queue)
    assert failed.code == "internal" and "KeyError" in failed.message
    await reader.close()
    await place.prefill(prompt(70))


@pytest.mark.parametrize("part", ["prefilled", "sending", "sent", "over"])
async def test_a_record_that_cannot_be_kept_costs_no_later_job_anything(
    place: Place, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    queue = await heard(place)
    with monkeypatch.context() as broken:
        broken.setattr(JobRecord, part, breaks)
        for job in range(3):  # more than there is room for tails
            reader, _ = await place.submit(prompt(70, seed=job))
            if part == "over":
                await reader.verified(DEADLINE_S)
            else:
                assert "broken on purpose" in (await failure(queue)).message
            await reader.close()
    await place.prefill(prompt(80))


async def test_a_job_whose_end_cannot_be_recorded_ends_all_the_same(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any) -> None:
        raise ZeroDivisionError("a figure")

    queue = await heard(place)
    with monkeypatch.context() as broken:
        broken.setattr(PrefillCore, "handle", breaks)
        broken.setattr(JobRecords, "broke", breaks)
        receiver, _ = await place.submit(prompt(40))
        assert (await failure(queue)).code == "internal"
        await receiver.close()
    await place.prefill(prompt(120, seed=1))


async def test_a_failure_is_told_again_until_its_decode_worker_has_done_with_the_attempt(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*arguments: object, **named: object) -> None:
        raise RuntimeError("a kernel broke")

    queue = await heard(place)
    (one_receiver, heard_one, _), (other_receiver, unheard_one, _) = [await place.make_job(prompt(tokens)) for tokens in (70, 71)]
    monkeypatch.setattr(EmulatedEngine, "prefill", breaks)
    await dispatch_to(place.bus, SITE, WORKER, heard_one)
    first = await failure(queue)
    cancel = CancelPrefill(transfer_id=first.transfer_id, attempt=first.attempt)
    await place.bus.publish(subjects.cancel_prefill(SITE, SITE), cancel)
    await dispatch_to(place.bus, SITE, WORKER, unheard_one)
    told = [await failure(queue) for _ in range(3)]  # the repeats of the first would have been due before the other's
    assert told[0] == told[1] == told[2] and told[0].transfer_id == unheard_one.transfer.transfer_id
    await one_receiver.close()
    await other_receiver.close()
