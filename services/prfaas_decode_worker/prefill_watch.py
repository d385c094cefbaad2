"""Questions to the queues and the workers that have jobs of this decode worker, so that a lost job costs seconds."""

import asyncio
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, BusTimeoutError, NoRespondersError, StreamError
from prfaas.bus.patience import Patience
from prfaas.bus.repeated_question import RepeatedQuestion
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas_decode_worker.job_queues import JobQueues
from prfaas_decode_worker.prefill_watch_core import SILENT_S, Gone, Holder, PrefillWatchCore

ASK_EVERY_S: Final = 0.5
ASK_ABSENT_EVERY_S: Final = 0.25
"""Interval while no process subscribes for the worker."""
FIRST_ASK_S: Final = 0.25
"""Time after the news of a holder at which it is first asked. Most prefills of a few hundred tokens are over by then, and cost no
question."""
ANSWER_WAIT_S: Final = 0.75
"""Time after a question at which the next one is asked. The answer counts whenever it comes: a slow link is no dead worker."""
MAX_KNOWN: Final = 256
"""Processes whose answers' times are remembered."""
LOOK_BACK_S: Final = 60.0
"""Time in which a worker that is taken for dead may answer again, and has not died then."""


class Holding:
    """Holder of one job: the queue at first, then a worker."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.holder: Holder | None = None
        self.held = asyncio.Event()
        """Set once there is a holder."""
        self.computing = False
        """True while the holder computes it."""

    def held_by(self, worker: str, incarnation: str | None) -> None:
        """Notes the worker that has the job. No other name gets it; of one name another process may have taken it than the one
        that it was meant for."""
        if self.holder is None or (self.holder.name == worker and incarnation is not None):
            self.holder = Holder(self.site, worker, incarnation)
            self.held.set()


class Loss(NamedTuple):
    """End of a job that no worker will finish."""

    code: FailureCode
    reason: str
    died: Holder | None = None
    """Worker that died while it computed the job."""


class PrefillWatch:
    def __init__(self, bus: ControlBus, queues: JobQueues, site: str) -> None:
        """`site` of the decode worker."""
        self._bus = bus
        self._queues = queues
        self._site = site
        self._patience: dict[Holder, Patience] = {}
        """Patience with each process that had a job, the oldest first."""

    async def until_lost(self, holding: Holding, sequence: int, frames: Callable[[], int]) -> Loss:
        """Asks until the job is lost. `sequence`: its number in the queue; `frames` returns how many have come for it."""
        loss = await self._until_held(holding, sequence)
        return loss or await self._until_gone(holding, frames)

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

    async def _until_held(self, holding: Holding, sequence: int) -> Loss | None:
        """Returns None as soon as a worker has the job."""
        own_site, stored_at = holding.site == self._site, time.monotonic()
        whom = f"the job queue of site {holding.site}"
        core = PrefillWatchCore(whom, stored_at, Patience(SILENT_S), own_site=own_site)
        while not await _is_held(holding):  # a job that was stored a moment ago is there
            gone: Gone | None = None
            try:
                last = await self._queues.last_stored(holding.site, stored_at, ANSWER_WAIT_S)
            except (NoRespondersError, StreamError):
                gone = core.handle_absence(time.monotonic(), site_answers=False)
            except BusTimeoutError:
                gone = core.handle_silence(time.monotonic(), server_answers=not own_site)
            except BusError:  # this worker's own connection is down: that says nothing about the queue
                core.handle_sign(time.monotonic())
            else:
                core.handle_sign(time.monotonic())
                if last < sequence and not holding.held.is_set():
                    return Loss(FailureCode.BROKER, f"the job queue of site {holding.site} was lost, and the job with it")
            if gone is not None and not holding.held.is_set():
                return Loss(FailureCode.TIMEOUT, gone.reason)
        return None

    async def _until_gone(self, holding: Holding, frames: Callable[[], int]) -> Loss:
        assert holding.holder is not None
        holder = holding.holder
        core, question = self._core(holder), self._question(holder)
        came = frames()
        try:
            await asyncio.sleep(FIRST_ASK_S)
            while True:
                if holder != holding.holder:
                    question.end()
                    holder = holding.holder
                    core, question = self._core(holder), self._question(holder)
                gone = await self._look(holder, core, question)
                if frames() > came:
                    core.handle_sign(time.monotonic())
                elif gone is not None and holder == holding.holder:
                    return Loss(FailureCode.WORKER_LOST, gone.reason, holder if gone.died and holding.computing else None)
                came = frames()
                if not core.missing or core.absent:
                    await asyncio.sleep(ASK_ABSENT_EVERY_S if core.absent else ASK_EVERY_S)
        finally:
            question.end()

    async def _look(self, holder: Holder, core: PrefillWatchCore, question: RepeatedQuestion[bool]) -> Gone | None:
        """Asks once more."""
        try:
            answered = await question.again(ANSWER_WAIT_S)
        except NoRespondersError:
            return core.handle_absence(time.monotonic(), site_answers=await self._answers(holder.site))
        except BusError:  # this worker's own connection is down: that says nothing about the other
            answered = True
        if answered:
            core.handle_sign(time.monotonic())
            return None
        answers = holder.site != self._site or await self._answers(self._site)
        return core.handle_silence(time.monotonic(), server_answers=answers)

    def _core(self, holder: Holder) -> PrefillWatchCore:
        whom = f"prefill worker {holder.name!r} of site {holder.site}"
        return PrefillWatchCore(whom, time.monotonic(), self._patience_with(holder), own_site=holder.site == self._site)

    def _question(self, holder: Holder) -> RepeatedQuestion[bool]:
        async def ask(timeout_s: float) -> bool:
            await self._ask(holder, timeout_s)
            return True

        return RepeatedQuestion(ask, self._patience_with(holder))

    def _patience_with(self, holder: Holder) -> Patience:
        patience = self._patience.pop(holder, None) or Patience(SILENT_S)
        self._patience[holder] = patience
        if len(self._patience) > MAX_KNOWN:
            del self._patience[next(iter(self._patience))]
        return patience

    async def _ask(self, holder: Holder, timeout_s: float) -> None:
        if holder.incarnation is None:
            subject = subjects.worker_alive(holder.site, holder.name)
        else:
            subject = subjects.prefill_alive(holder.site, holder.name, holder.incarnation)
        await self._bus.request_raw(subject, b"", timeout_s)

    async def _answers(self, site: str) -> bool:
        """Asks a site's server about its queue. Returns whether it answers."""
        try:
            await self._queues.last_stored(site, time.monotonic(), ANSWER_WAIT_S)
        except BusError:
            return False
        return True


async def _is_held(holding: Holding) -> bool:
    """Returns whether a worker has the job, False after ASK_EVERY_S at the earliest."""
    try:
        async with asyncio.timeout(ASK_EVERY_S):
            await holding.held.wait()
    except TimeoutError:
        return holding.held.is_set()
    return True
