"""The watch over the queue and the worker that have a job: the real PrefillWatchCore, asked for in the order of PrefillWatch."""

from load.worlds.clockwork import Future, Process
from load.worlds.plan import HOME
from load.worlds.receiving import Receiver
from load.worlds.surroundings import Surroundings
from prfaas.bus.errors import BusError, BusTimeoutError, NoRespondersError, StreamError
from prfaas.bus.patience import Patience
from prfaas.contracts.codes import FailureCode
from prfaas_decode_worker.prefill_watch import ANSWER_WAIT_S, ASK_ABSENT_EVERY_S, ASK_EVERY_S, FIRST_ASK_S, LOOK_BACK_S, Loss
from prfaas_decode_worker.prefill_watch_core import SILENT_S, Gone, Holder, PrefillWatchCore

IS_THERE_TIMEOUT_S = 1.0


class Holding:
    """Follows Holding of the shell."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.holder: Holder | None = None
        """The prefill worker that has the job."""
        self.held: Future[None] = Future()
        self.computing = False

    def held_by(self, worker: str, incarnation: str | None) -> None:
        if self.holder is None or (self.holder.name == worker and incarnation is not None):
            self.holder = Holder(self.site, worker, incarnation)
            self.held.set(None)


class PrefillWatching:
    def __init__(self, worker: Process, world: Surroundings) -> None:
        self._worker = worker
        self._world = world
        self._patience: dict[Holder, Patience] = {}

    async def is_there(self, name: str) -> bool:
        try:
            await self._world.network.ask(self._worker, name, "alive_asked", timeout_s=IS_THERE_TIMEOUT_S)
        except BusError:
            return False
        return True

    async def until_lost(self, holding: Holding, receiver: Receiver, sequence_number: int) -> Loss:
        """Follows PrefillWatch.until_lost."""
        loss = await self._until_held(holding, sequence_number)
        return loss or await self._until_gone(holding, receiver)

    async def _until_held(self, holding: Holding, sequence_number: int) -> Loss | None:
        worker, site = self._worker, holding.site
        core = PrefillWatchCore(f"the queue of {site}", worker.monotonic_s, Patience(SILENT_S), own_site=site == HOME)
        while not await self._is_held(holding):
            gone: Gone | None = None
            try:
                last = await self._world.jobs[site].queued.last_stored(worker, ANSWER_WAIT_S)
            except (NoRespondersError, StreamError):
                gone = core.handle_absence(worker.monotonic_s, site_answers=False)
            except BusTimeoutError:
                gone = core.handle_silence(worker.monotonic_s, server_answers=site != HOME)
            else:
                core.handle_sign(worker.monotonic_s)
                if last < sequence_number and not holding.held.done:
                    return Loss(FailureCode.BROKER, "the queue was lost, and the job with it")
            core.validate()
            if gone is not None and not holding.held.done:
                return Loss(FailureCode.TIMEOUT, gone.reason)
        return None

    async def _is_held(self, holding: Holding) -> bool:
        await self._worker.wait([holding.held], ASK_EVERY_S)
        return holding.held.done

    async def _until_gone(self, holding: Holding, receiver: Receiver) -> Loss:
        assert holding.holder is not None
        holder, core = holding.holder, self._watching(holding.holder)
        came = receiver.report().frames
        await self._worker.sleep(FIRST_ASK_S)
        while True:
            if holder != holding.holder:
                holder, core = holding.holder, self._watching(holding.holder)
            gone = await self._look(holder, core)
            if receiver.report().frames > came:
                core.handle_sign(self._worker.monotonic_s)
            elif gone is not None and holder == holding.holder:
                return Loss(FailureCode.WORKER_LOST, gone.reason, holder if gone.died and holding.computing else None)
            core.validate()
            came = receiver.report().frames
            if not core.missing or core.absent:
                await self._worker.sleep(ASK_ABSENT_EVERY_S if core.absent else ASK_EVERY_S)

    def _watching(self, holder: Holder) -> PrefillWatchCore:
        patience = self._patience.setdefault(holder, Patience(SILENT_S))
        return PrefillWatchCore(holder.name, self._worker.monotonic_s, patience, own_site=holder.site == HOME)

    async def _look(self, holder: Holder, core: PrefillWatchCore) -> Gone | None:
        """Follows PrefillWatch._look, but for answers that come late."""
        asked_at = self._worker.monotonic_s
        try:
            await self._ask(holder)
        except NoRespondersError:
            answers = await self._answers(holder.site)
            return core.handle_absence(self._worker.monotonic_s, site_answers=answers)
        except BusTimeoutError:
            answers = holder.site != HOME or await self._answers(HOME)
            return core.handle_silence(self._worker.monotonic_s, server_answers=answers)
        self._patience[holder].handle_answer(self._worker.monotonic_s - asked_at)
        core.handle_sign(self._worker.monotonic_s)
        return None

    async def _ask(self, holder: Holder) -> None:
        name = holder.name if holder.incarnation is None else f"{holder.name}.{holder.incarnation}"
        await self._world.network.ask(self._worker, name, "alive_asked", timeout_s=ANSWER_WAIT_S)

    async def _answers(self, site: str) -> bool:
        try:
            await self._world.jobs[site].queued.last_stored(self._worker, ANSWER_WAIT_S)
        except BusError:
            return False
        return True

    async def until_back(self, holder: Holder) -> bool:
        """Follows PrefillWatch.until_back."""
        until_s = self._worker.monotonic_s + LOOK_BACK_S
        while self._worker.monotonic_s < until_s:
            await self._worker.sleep(ASK_EVERY_S)
            try:
                await self._ask(holder)
            except BusError:
                continue
            return True
        return False
