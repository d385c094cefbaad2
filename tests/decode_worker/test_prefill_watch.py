"""Questions to the queue and the worker that have a job: none about one that is over soon."""

import asyncio
from typing import Any

import pytest

from prfaas.bus.errors import NoRespondersError
from prfaas.contracts.codes import FailureCode
from prfaas_decode_worker import prefill_watch
from prfaas_decode_worker.job_queues import JobQueues
from prfaas_decode_worker.prefill_watch import Holding, PrefillWatch


class Asked:
    """Stands for queues and bus: every question is noted, and no worker is there."""

    def __init__(self) -> None:
        self.queues: list[str] = []
        self.workers: list[str] = []

    async def last_stored(self, site: str, decode_site: str, model: str, timeout_s: float) -> int:
        self.queues.append(site)
        return 1

    async def request_raw(self, subject: str, payload: bytes, timeout_s: float) -> None:
        self.workers.append(subject)
        raise NoRespondersError(subject)


def watch_of(asked: Any) -> PrefillWatch:
    return PrefillWatch(asked, JobQueues(asked, "home", "m"), "home")


async def test_a_prefill_that_is_over_at_once_costs_no_question() -> None:
    asked, holding = Asked(), Holding("far")
    watching = asyncio.create_task(watch_of(asked).until_lost(holding, 1, lambda: 0))
    await asyncio.sleep(0)
    holding.held_by("p0", "i")
    for _ in range(10):  # turns of the loop, in which a question would have left
        await asyncio.sleep(0)
    watching.cancel()
    assert asked.queues == asked.workers == []


async def test_a_worker_that_is_not_there_is_asked_for_and_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_ASK_S", "ASK_EVERY_S", "ASK_ABSENT_EVERY_S"):
        monkeypatch.setattr(prefill_watch, name, 0.0)
    asked, holding = Asked(), Holding("far")
    holding.held_by("p0", "i")
    loss = await watch_of(asked).until_lost(holding, 1, lambda: 0)
    assert loss.code is FailureCode.WORKER_LOST and asked.workers


async def test_a_queue_that_lost_a_job_is_asked_while_no_worker_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill_watch, "ASK_EVERY_S", 0.0)
    asked = Asked()
    loss = await watch_of(asked).until_lost(Holding("far"), 2, lambda: 0)
    assert loss.code is FailureCode.BROKER and asked.queues
