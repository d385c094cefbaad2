"""The queue of a site's prefill workers: says when a job runs, and on which worker. Where it runs was decided before.

Rules, for the jobs of each model:

- A job is bound late: a worker that is ready gets the next job. Only a job that wants one worker's cache waits for that worker.
- Jobs run in the order of their due dates, those of a higher priority first. One of a tenant that waits for less than
  half of the work, by its weight, that another waits for overtakes that one's, if it makes none of them late.
- When a job would be late, the longest of those up to it gives way (Moore and Hodgson, 1968: the fewest jobs are late). With
  several tenants, it is the longest of those that have more than their weighted share of the site.
- What waits already is not refused, so tenants that have had their share leave time to those that have had far less: see
  `tenant_room`.
- A job that gives way is put off. It runs when nothing else is due, in deficit round robin among the tenants. It never returns
  into the line: when its last moment is near, that moment is its due date, and nothing is put off for it any more.
- Only as much is put off as the time that jobs in time leave over can serve. What does not fit is refused on its arrival, with
  the time after which it would have fitted. What waits already is not refused, unless no worker came to it before its expiry.
- Workers may be unlike: each has a pace, the factor of its times. Lateness is predicted from the work that is left and waits,
  over the work that all workers do in a second. A worker that is ready leaves a job to a faster one where that serves it better:
  see `faster`. A job is too late when it is so for the fastest one.
"""

from prfaas_scheduler.queue.events import Event, Instruction, JobArrived, JobGone, TimePassed, WorkerGone, WorkerReady
from prfaas_scheduler.queue.model_queue import ModelQueue
from prfaas_scheduler.queue.options import QueueOptions


class SiteQueue:
    def __init__(self, options: QueueOptions | None = None) -> None:
        self._options = options or QueueOptions()
        self.models: dict[str, ModelQueue] = {}
        self._model_of: dict[str, str] = {}
        """Model by worker."""

    def __len__(self) -> int:
        return sum(len(queue) for queue in self.models.values())

    def handle(self, event: Event) -> list[Instruction]:
        """Returns what is to be done, in order. A job that waits already, and a worker or a job that is not known, change
        nothing."""
        out = [instruction for queue in self.models.values() for instruction in queue.advance(event.now_s)]
        match event:
            case JobArrived(_, job):
                queue = self._queue_of(job.model, event.now_s)
                if job.job_id not in queue:
                    out += queue.arrive(job)
            case WorkerReady(_, worker, model, pace):
                if self._model_of.get(worker, model) != model:  # it serves another model now
                    out += self._worker_gone(worker)
                self._model_of[worker] = model
                out += self._queue_of(model, event.now_s).worker_ready(worker, pace)
            case WorkerGone(_, worker):
                out += self._worker_gone(worker)
            case JobGone(_, job_id):
                for queue in self.models.values():
                    queue.job_gone(job_id)
            case TimePassed():
                for queue in self.models.values():
                    out += queue.serve_ready()
        return out

    def _queue_of(self, model: str, now_s: float) -> ModelQueue:
        queue = self.models.get(model)
        if queue is None:
            queue = self.models[model] = ModelQueue(model, self._options, now_s)
        return queue

    def _worker_gone(self, worker: str) -> list[Instruction]:
        model = self._model_of.pop(worker, None)
        return [] if model is None else self.models[model].worker_gone(worker)

    def validate(self) -> None:
        for model, queue in self.models.items():
            assert queue.model == model
            queue.validate()
        assert all(worker in self.models[model].running for worker, model in self._model_of.items())
        assert len(self._model_of) == sum(len(queue.running) for queue in self.models.values())
