"""Questions to the prefill workers that have jobs of this decode worker, so that a dead or stopped one costs seconds."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, BusTimeoutError, NoRespondersError
from prfaas.bus.jobs import JobQueue
from prfaas.contracts import subjects
from prfaas_decode_worker.prefill_watch_core import SILENT_S, Holder, PrefillWatchCore, WorkerGone

ASK_EVERY_S: Final = 0.5
ASK_ABSENT_EVERY_S: Final = 0.25
"""Interval while no process subscribes for the worker."""
ANSWER_WAIT_S: Final = 0.75
"""Time after a question at which the next one is asked. The answer counts whenever it comes: a slow link is no dead worker."""
LOOK_BACK_S: Final = 60.0
"""Time in which a worker that is taken for dead may answer again, and has not died then."""


class PrefillWatch:
    def __init__(self, bus: ControlBus, queue: JobQueue, site: str, model: str) -> None:
        """`site` and `model` of the decode worker."""
        self._bus = bus
        self._queue = queue
        self._site = site
        self._model = model

    async def until_gone(self, holder: Callable[[], Holder], frames: Callable[[], int]) -> WorkerGone:
        """Asks until the worker is gone. `holder` returns which one has the job by now, `frames` how many have come from it."""
        core = self._core(holder())
        questions: set[asyncio.Task[None]] = set()
        came = frames()
        try:
            while True:
                if core.holder != holder():
                    core = self._core(holder())
                    _cancel(questions)
                gone = await self._look(core, questions)
                if frames() > came:
                    core.handle_sign(time.monotonic())
                elif gone is not None:
                    return gone
                came = frames()
                if not core.missing or core.absent:
                    await asyncio.sleep(ASK_ABSENT_EVERY_S if core.absent else ASK_EVERY_S)
        finally:
            _cancel(questions)

    async def until_back(self, holder: Holder) -> bool:
        """Asks whether a worker that was taken for dead is there all the same. Returns whether it answered."""
        until_at = time.monotonic() + LOOK_BACK_S
        while time.monotonic() < until_at:
            await asyncio.sleep(ASK_EVERY_S)
            try:
                await self._ask(holder, ANSWER_WAIT_S)
            except BusError:
                continue
            return True
        return False

    async def _look(self, core: PrefillWatchCore, questions: set[asyncio.Task[None]]) -> WorkerGone | None:
        """Asks once more. `questions`: those that have no answer yet."""
        questions.add(asyncio.create_task(self._ask(core.holder, SILENT_S)))
        ended, _ = await asyncio.wait(questions, timeout=ANSWER_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        questions -= ended
        errors = [question.exception() for question in ended]
        absent = any(isinstance(error, NoRespondersError) for error in errors)
        # Another error than these is of this worker's own connection, and says nothing about the other.
        if ended and not absent and not all(isinstance(error, BusTimeoutError) for error in errors):
            core.handle_sign(time.monotonic())
            return None
        if absent:
            answers = await self._site_answers(core.holder.site)
            return core.handle_absence(time.monotonic(), site_answers=answers)
        answers = core.holder.site != self._site or await self._site_answers(self._site)
        return core.handle_silence(time.monotonic(), server_answers=answers)

    def _core(self, holder: Holder) -> PrefillWatchCore:
        return PrefillWatchCore(holder, time.monotonic(), own_site=holder.site == self._site)

    async def _ask(self, holder: Holder, timeout_s: float) -> None:
        if holder.incarnation is None:
            subject = subjects.worker_alive(holder.site, holder.name)
        else:
            subject = subjects.prefill_alive(holder.site, holder.name, holder.incarnation)
        await self._bus.request_raw(subject, b"", timeout_s)

    async def _site_answers(self, site: str) -> bool:
        return await self._queue.takes_jobs(site, self._site, self._model, ANSWER_WAIT_S)


def _cancel(questions: set[asyncio.Task[None]]) -> None:
    while questions:
        questions.pop().cancel()
