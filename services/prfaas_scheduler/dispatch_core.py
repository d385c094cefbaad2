"""Readiness of the site's workers, and the jobs that each gets; pure.

Signs of readiness repeat and may be older than a dispatch that they cross. So jobs are counted: a worker is ready when it says so
and has taken all jobs that were dispatched to it.
"""

from dataclasses import dataclass
from math import inf
from typing import Final, assert_never

from prfaas.contracts.to_scheduler import PrefillReadiness, QueueAnnounced
from prfaas_scheduler.dispatch_events import (
    AskWorker,
    ClockTicked,
    DispatchEnded,
    DispatchResult,
    Event,
    Instruction,
    JobCancelled,
    JobHeld,
    ReadinessHeard,
    SendHome,
    WorkerAbsent,
)
from prfaas_scheduler.queue.events import (
    Dispatch,
    JobArrived,
    JobGone,
    TimePassed,
    WorkerGone,
    WorkerReady,
)
from prfaas_scheduler.queue.site_queue import SiteQueue
from prfaas_scheduler.speeds import Speeds

SILENT_S: Final = 2.5
"""Silence after which a worker gets no job. It repeats every second whether it is ready."""
QUIET_S: Final = 1.25
"""Silence after which a worker is asked whether it is there: a dead one has no subscription any more."""
ASK_EVERY_S: Final = 0.5
TRIED_SHARE: Final = 0.9
"""Share of its time that a prefill takes at most, as predicted beside a worker that is ready."""
UNTAKEN_S: Final = 5.0
"""Time after which a job that a ready worker has not taken will not come any more, such as one that had expired."""


@dataclass(slots=True)
class _Worker:
    readiness: PrefillReadiness
    heard_at: float
    sent: int
    """Jobs that its process was sent, counted as it counts those that it takes."""
    sent_at: float
    offered: bool = False
    """The queue knows it as ready."""
    pace: float = 1.0
    """Factor of its prefill times on those of the pool."""
    offered_pace: float = 1.0
    """The same as the queue knows it."""
    asked_at: float = -inf
    """Moment at which it was asked whether it is there."""


class DispatchCore:
    def __init__(self, queue: SiteQueue) -> None:
        self.queue = queue
        self._workers: dict[str, _Worker] = {}
        self._speeds: dict[str, Speeds] = {}
        """Prefill times of the workers of each model, as each announces its own."""

    def handle(self, event: Event) -> list[Instruction]:
        match event:
            case JobHeld(now_s, job):
                return self._told(JobArrived(now_s, job))
            case ReadinessHeard(now_s, readiness):
                return self._heard(readiness, now_s)
            case DispatchEnded():
                return self._ended(event)
            case JobCancelled(now_s, job_id):
                return self._told(JobGone(now_s, job_id))
            case ClockTicked(now_s):
                silent = [name for name, worker in self._workers.items() if now_s - worker.heard_at > SILENT_S]
                out = [instruction for name in silent for instruction in self._lose(name, now_s)]
                return [*out, *self._told(TimePassed(now_s)), *self._send_home(now_s), *self._ask_quiet(now_s)]
            case WorkerAbsent(now_s, name, asked_at):
                worker = self._workers.get(name)
                if worker is None or worker.heard_at > asked_at:
                    return []
                return [*self._lose(name, now_s), *self._send_home(now_s)]
            case _:
                assert_never(event)

    def models(self) -> set[str]:
        """Models of the workers that were heard of lately."""
        return {worker.readiness.model for worker in self._workers.values()}

    def work_s(self, model: str, tokens: int, left_s: float) -> float:
        """Predicted time of a prefill at pace 1 that has `left_s` until it is of no use; 0 while nothing was observed.

        While a worker is ready, the fastest is never predicted to take too long: the job is tried. One slow prefill, or one of
        another length, would else have all later ones refused, and nothing would ever be observed that mends the prediction."""
        speeds, queue = self._speeds.get(model), self.queue.models.get(model)
        predicted_s = (speeds and speeds.work_s(tokens)) or 0.0
        if queue is not None and queue.running.ready:
            return min(predicted_s, TRIED_SHARE * max(0.0, left_s) / queue.running.least_pace)
        return predicted_s

    def least_pace(self, model: str) -> float:
        """Factor on `work_s` of the fastest worker; 1 without any."""
        queue = self.queue.models.get(model)
        return 1.0 if queue is None else queue.running.least_pace

    def announcement(self, site: str, now_s: float) -> QueueAnnounced:
        queues = self.queue.models.values()
        return QueueAnnounced(
            site=site,
            due_s=sum(queue.due_s * queue.mean_pace for queue in queues),
            running_s=sum(queue.running_s(now_s) * queue.mean_pace for queue in queues),
            ready=sum(len(queue.running.ready) for queue in queues),
        )

    def incarnation(self, worker: str) -> str | None:
        """Process of the worker's name that was heard of last; None for one that is silent."""
        known = self._workers.get(worker)
        return None if known is None else known.readiness.incarnation

    def outstanding(self, worker: str) -> int:
        """Jobs on their way to the worker."""
        known = self._workers.get(worker)
        return 0 if known is None else known.sent - known.readiness.taken

    def validate(self) -> None:
        self.queue.validate()
        for worker in self._workers.values():
            assert worker.sent >= worker.readiness.taken
            assert not worker.offered or (worker.readiness.ready and worker.sent == worker.readiness.taken)

    def _lose(self, name: str, now_s: float) -> list[Instruction]:
        worker = self._workers.pop(name)
        if (speeds := self._speeds.get(worker.readiness.model)) is not None:
            speeds.gone(name)
        return self._told(WorkerGone(now_s, name))

    def _send_home(self, now_s: float) -> list[Instruction]:
        """Ends the jobs that wait for workers of which none is left, where they can be prefilled elsewhere."""
        out: list[Instruction] = []
        models = self.models()
        deserted = [queue for model, queue in self.queue.models.items() if model not in models and len(queue)]
        for queue in deserted:
            for job in queue.of_other_sites():
                out += [*self._told(JobGone(now_s, job.job_id)), SendHome(job.job_id)]
        return out

    def _ask_quiet(self, now_s: float) -> list[Instruction]:
        out: list[Instruction] = []
        for name, worker in self._workers.items():
            if now_s - worker.heard_at > QUIET_S and now_s - worker.asked_at > ASK_EVERY_S:
                worker.asked_at = now_s
                out.append(AskWorker(name))
        return out

    def _told(self, event: JobArrived | JobGone | WorkerReady | WorkerGone | TimePassed) -> list[Instruction]:
        """Hands an event to the queue, and notes which workers have got a job by that."""
        instructions: list[Instruction] = [*self.queue.handle(event)]
        for instruction in instructions:
            if isinstance(instruction, Dispatch):
                worker = self._workers[instruction.worker]
                worker.offered = False
                worker.sent += 1
                worker.sent_at = event.now_s
        return instructions

    def _heard(self, readiness: PrefillReadiness, now_s: float) -> list[Instruction]:
        out: list[Instruction] = []
        name = readiness.worker
        worker = self._workers.get(name)
        # A process that is new, or new to this dispatcher, has what it has.
        if worker is None or worker.readiness.incarnation != readiness.incarnation or worker.readiness.model != readiness.model:
            if worker is not None:
                out += self._lose(name, now_s)
            worker = self._workers[name] = _Worker(readiness, now_s, readiness.taken, now_s)
        worker.readiness, worker.heard_at = readiness, now_s
        if readiness.prefill_points:
            speeds = self._speeds.setdefault(readiness.model, Speeds())
            speeds.announced(name, readiness.prefill_points)
            worker.pace = speeds.pace(name)
        # What it took beyond what this dispatcher sent came from another one, or from the worker itself.
        if readiness.taken > worker.sent or (readiness.ready and now_s - worker.sent_at > UNTAKEN_S):
            worker.sent = readiness.taken
        return out + self._offer(name, worker, now_s)

    def _offer(self, name: str, worker: _Worker, now_s: float) -> list[Instruction]:
        """Tells the queue when the worker becomes ready, or is so no more without a job from here."""
        ready = worker.readiness.ready and worker.sent == worker.readiness.taken
        if ready is worker.offered and worker.pace == worker.offered_pace:
            return []
        changed, worker.offered = ready is not worker.offered, ready
        if ready:
            worker.offered_pace = worker.pace
            return self._told(WorkerReady(now_s, name, worker.readiness.model, worker.pace))
        if not changed:
            return []
        return self._told(WorkerGone(now_s, name))

    def _ended(self, ended: DispatchEnded) -> list[Instruction]:
        if ended.result is DispatchResult.STORED:
            return []
        # The worker does not get it, so it is as ready as it has said. The queue is to forget that it runs the job.
        out: list[Instruction] = []
        worker = self._workers.get(ended.worker)
        if worker is not None and worker.sent > worker.readiness.taken:
            worker.sent -= 1
            worker.offered = False
            out += self._told(WorkerGone(ended.now_s, ended.worker))
        if ended.result is DispatchResult.FAILED:
            out += self._told(JobArrived(ended.now_s, ended.job))
        if worker is not None and self._workers.get(ended.worker) is worker:
            out += self._offer(ended.worker, worker, ended.now_s)
        return out
