"""Questions to job queues: one for all that ask at about the same time, and never one that is older than the job it is about."""

import asyncio
import time
from typing import Any

import pytest

from prfaas.bus.errors import NoRespondersError
from prfaas_decode_worker.job_queues import SHARED_FOR_S, JobQueues


class Queue:
    """Stands for the queues of all sites: answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[int]] = []

    async def last_stored(self, site: str, decode_site: str, model: str, timeout_s: float) -> int:
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]


async def asking(queues: JobQueues, count: int, since: float = 0.0) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(queues.last_stored("far", since, 1.0)) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


def queues_of(queue: Any) -> JobQueues:
    return JobQueues(queue, "home", "m")


async def test_those_that_ask_at_the_same_time_share_a_question() -> None:
    queue = Queue()
    tasks = await asking(queues_of(queue), 5)
    (asked,) = queue.asked
    asked.set_result(7)
    assert await asyncio.gather(*tasks) == [7] * 5


async def test_an_answer_from_before_a_job_was_stored_says_nothing_about_it() -> None:
    queue = Queue()
    queues = queues_of(queue)
    (early,) = await asking(queues, 1)
    queue.asked[0].set_result(7)
    assert await early == 7
    (late,) = await asking(queues, 1, since=time.monotonic() + SHARED_FOR_S)
    assert len(queue.asked) == 2
    queue.asked[1].set_result(8)
    assert await late == 8


async def test_an_error_reaches_all_who_asked_and_is_asked_about_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prfaas_decode_worker.job_queues.SHARED_FOR_S", -1.0)
    queue = Queue()
    queues = queues_of(queue)
    (first,) = await asking(queues, 1)
    queue.asked[0].set_exception(NoRespondersError("jobs.far"))
    with pytest.raises(NoRespondersError):
        await first
    (left, again) = await asking(queues, 2)
    left.cancel()
    queue.asked[-1].set_result(9)
    assert await again == 9
