"""Queue of the jobs of one model at one site. See `site_queue` for its rules."""

import heapq
from collections.abc import Iterable
from dataclasses import replace

from prfaas_scheduler.queue.class_floor import ClassFloor
from prfaas_scheduler.queue.due_order import DueOrder, Waiting
from prfaas_scheduler.queue.events import Dispatch, Instruction, Job, Refuse
from prfaas_scheduler.queue.heads import Heads
from prfaas_scheduler.queue.next_job import NextJob
from prfaas_scheduler.queue.options import QueueOptions
from prfaas_scheduler.queue.refusal import refusal
from prfaas_scheduler.queue.running import Running
from prfaas_scheduler.queue.tenant_room import TenantRoom
from prfaas_scheduler.queue.tenants import Backlogs, DeficitRoundRobin, Shares


class ModelQueue:
    def __init__(self, model: str, options: QueueOptions, now_s: float) -> None:
        self.model = model
        self.running = Running(now_s)
        self._options = options
        self._now_s = now_s
        self._numbers = 0
        self._shares = Shares(options.weights)
        self._backlogs = Backlogs(self._shares.weight)
        self._floor = ClassFloor(options.class_floor)
        self._room = TenantRoom()
        self._waiting: dict[str, Waiting] = {}
        """All jobs that wait, by id."""
        self._order = DueOrder()
        """Those that are to be in time, and those whose last moment is near."""
        self._heads = Heads(self._waiting)
        self._late_s = 0.0
        """Work of the jobs in the order that are late and were never put off."""
        self._put_off: dict[str | None, DeficitRoundRobin] = {}
        """Other jobs by the worker that alone may take them."""
        self._last_starts: list[tuple[float, int, str]] = []
        """Heap of (last moment to begin, number, job id) of jobs that were put off, and outdated entries."""
        self._expiries: list[tuple[float, int, str]] = []
        """The same of all jobs, for the moment of their expiry."""
        self._next = NextJob(self.running, self._order, self._heads, self._backlogs, self._put_off, self._last_end_at)

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._waiting

    @property
    def wait_s(self) -> float:
        """Mean wait of the next job behind those that are to be in time; 0 while a worker is ready."""
        if self.running.ready or not len(self.running):
            return 0.0
        return (self.running.left_s + self._order.work_s) / self.running.capacity

    @property
    def mean_pace(self) -> float:
        """Pace of workers that, alike and as many, would do as much work."""
        return len(self.running) / self.running.capacity if len(self.running) else 1.0

    @property
    def due_s(self) -> float:
        """Work of the jobs that wait and are to be in time."""
        return self._order.work_s

    def of_other_sites(self) -> list[Job]:
        """Returns the jobs that wait and that other sites can prefill themselves."""
        return [waiting.job for waiting in self._waiting.values() if waiting.job.of_other_site]

    def running_s(self, now_s: float) -> float:
        """Work left of the jobs that run, as predicted, over all workers."""
        self.running.advance(now_s)
        return self.running.left_s

    @property
    def put_off_s(self) -> float:
        """Work of the jobs that were put off and wait for their turn."""
        return sum(queue.work_s for queue in self._put_off.values())

    # ---- events

    def advance(self, now_s: float) -> list[Instruction]:
        """Moves the time. Refuses what has expired, and gives jobs that were put off their turn when their last moment is
        near."""
        assert now_s >= self._now_s, "time does not go back"
        self._now_s = now_s
        self.running.advance(now_s)
        out: list[Instruction] = []
        while self._expiries and self._expiries[0][0] < now_s:
            waiting = self._waiting.get(heapq.heappop(self._expiries)[2])
            if waiting is None:
                continue
            if (last_start_at := waiting.job.expires_at - self._least_s(waiting.job)) < now_s:
                self._drop(waiting)
                out.append(refusal(waiting.job, "no worker came to it in time"))
            else:  # a faster worker has come
                heapq.heappush(self._expiries, (last_start_at, waiting.number, waiting.job.job_id))
        if self._give_turns():
            out += self._keep_due_dates(None)
        return out

    def arrive(self, job: Job) -> list[Instruction]:
        least_s = self._least_s(job)
        if job.expires_at - least_s < self._now_s:
            return [refusal(job, f"its prefill of {least_s:.2f} s would end after its deadline")]
        waiting = Waiting(job, self._numbers + 1, job.due_at)
        if len(self._waiting) >= self._options.max_jobs and self._in_time_now(waiting) is None:
            return [refusal(job, f"{len(self._waiting)} jobs wait there already")]
        # Take it in, and find out whom that makes late.
        of_share = self._shares.of_share(job.tenant)
        self._room.arrived(of_share)
        self._numbers += 1
        self._waiting[job.job_id] = waiting
        heapq.heappush(self._expiries, (job.expires_at - least_s, waiting.number, job.job_id))
        self._shares.add(job.tenant, job.work_s, self._now_s)
        self._backlogs.add(job)
        latest_start_at = self._latest_start_at(waiting)
        if latest_start_at >= self._now_s:  # else no queue, however short, would do
            self._floor.arrived(job.prefill_tokens)
        leave_s = max(self._floor.leave_s(job.prefill_tokens), self._room.leave_s(of_share))
        short_s = self.wait_s + leave_s - (latest_start_at - self._now_s)
        self._enter(waiting)
        # What a worker that is ready does in time is refused for nobody.
        out: list[Instruction] = []
        while job.job_id in self._waiting and (worker := self._in_time_now(waiting)) is not None:
            out += self.serve([worker]) or [self._give(waiting, worker)]
        if job.job_id not in self._waiting:
            return out + self._keep_due_dates(None)
        if leave_s and short_s > 0:
            return [*out, self._refuse_late(waiting, short_s)]
        out += self._keep_due_dates(waiting)
        # A worker that is ready takes it at once.
        return out + self.serve(self._able(job))

    def worker_ready(self, worker: str, pace: float) -> list[Instruction]:
        changed = worker in self.running and self.running.pace(worker) != pace
        self.running.make_ready(worker, pace)
        self._scale()
        # One that has become slow is waited for no longer.
        return self.serve([worker]) + (self.serve_ready() if changed else [])

    def worker_gone(self, worker: str) -> list[Instruction]:
        """Forgets a worker. Jobs that it alone was to take may go to any other."""
        self.running.remove(worker)
        self._scale()
        for waiting in self._heads.release(worker):
            self._unbind(waiting)
            self._heads.add(waiting)
        late = self._put_off.pop(worker, None)
        while late is not None and (found := late.pop()) is not None:
            self._unbind(found)
            self._put_off_queue(None).add(found)
        return self.serve_ready() + self._keep_due_dates(None)

    def _scale(self) -> None:
        self._order.set_workers(len(self.running), self.running.capacity, self.running.least_pace)

    def job_gone(self, job_id: str) -> None:
        if (waiting := self._waiting.get(job_id)) is not None:
            self._drop(waiting)
            self._shares.add(waiting.job.tenant, -waiting.job.work_s, self._now_s)

    def serve(self, workers: Iterable[str]) -> list[Instruction]:
        """Gives each of the ready workers its next job."""
        out: list[Instruction] = []
        for worker in workers:
            if worker in self.running.ready and (waiting := self._next.take(worker, self._now_s)) is not None:
                out.append(self._give(waiting, worker))
        return out

    def _give(self, waiting: Waiting, worker: str) -> Dispatch:
        # A job whose last moment was near took time that others would have had.
        due = waiting.in_order
        self._drop(waiting)
        self.running.begin(worker, waiting.job.work_s, due=due)
        return Dispatch(waiting.job.job_id, worker)

    def serve_ready(self) -> list[Instruction]:
        """Gives ready workers jobs that waited for faster ones in vain, or for one that is gone: the fastest workers first."""
        out: list[Instruction] = []
        if not self._waiting:
            return out
        for pace in self.running.ready_paces():
            while (worker := self.running.first_ready(pace)) is not None:
                if not (given := self.serve([worker])):
                    break
                out += given
        return out

    # ---- who is next

    def _able(self, job: Job) -> list[str]:
        """A ready worker that may take the job, if there is one."""
        if job.worker is not None and job.worker in self.running:
            return [job.worker]
        return self.running.fastest_ready()

    def _in_time_now(self, waiting: Waiting) -> str | None:
        """A worker that is ready and would do it by its due date, if there is one."""
        for worker in self._able(waiting.job):
            if worker in self.running.ready and waiting.latest_start_at(self.running.pace(worker)) >= self._now_s:
                return worker
        return None

    # ---- who gives way

    def _keep_due_dates(self, newcomer: Waiting | None) -> list[Instruction]:
        """Moore and Hodgson's rule: while a job would be late, the longest up to it is put off, or refused."""
        out: list[Instruction] = []
        while len(self.running) and (found := self._order.first_late(self.running.left_s, self._now_s)) is not None:
            late, late_s = found
            victim = self._victim(late)
            lower = newcomer is not None and newcomer.in_order and newcomer.job.priority > victim.job.priority
            if victim is late and not victim.put_off and not self._is_hopeless(victim) and self._may_put_off(victim):
                # It makes no other late as yet: it keeps its place, and gives way when it does.
                self._give_up(victim)
                continue
            if not victim.put_off and (lower or self._may_put_off(victim)):
                self._put(victim)
                continue
            # No room for it later on. What has just come is refused, what waits already is kept.
            if victim.put_off or self._now_s - victim.job.arrived_at > self._options.refuse_within_s:
                if newcomer is None or newcomer.put_off or not newcomer.in_order or newcomer.key > late.key:
                    self._give_up(late)
                    continue
                victim = newcomer
            out.append(self._refuse_late(victim, late_s))
        return out

    def _refuse_late(self, waiting: Waiting, late_s: float) -> Refuse:
        job = waiting.job
        self._drop(waiting)
        self._shares.add(job.tenant, -job.work_s, self._now_s)
        if not waiting.put_off:
            self._count_missed(waiting, late_s)
        workers, work_s = len(self.running), self.running.left_s + self._order.work_s
        message = f"{workers} workers have {work_s:.1f} s of work that is due before: it would be {late_s:.1f} s late"
        return refusal(job, message, late_s)

    def _count_missed(self, waiting: Waiting, late_s: float) -> None:
        """Counts a job that is not in time, if it could have been on its arrival. `late_s`: what the queue is too long for it."""
        if self._latest_start_at(waiting) >= waiting.job.arrived_at:
            self._floor.missed(waiting.job.prefill_tokens)
            self._room.missed(self._shares.of_share(waiting.job.tenant), late_s)

    def _victim(self, late: Waiting) -> Waiting:
        """The job to give way for one that would be late."""
        # One that would be late as the first of all is saved by no other.
        if late.put_off or self._is_hopeless(late):
            return late
        return self._order.longest(late, self._shares.is_above) or late

    def _is_hopeless(self, waiting: Waiting) -> bool:
        """True if it would be late even as the first of all."""
        return self.running.left_s > (self._latest_start_at(waiting) - self._now_s) * self.running.capacity

    def _latest_start_at(self, waiting: Waiting) -> float:
        """Latest start on the fastest worker: the queue waits for it where no other does it in time."""
        return waiting.latest_start_at(self.running.least_pace)

    def _least_s(self, job: Job) -> float:
        """Time of a job on the fastest worker."""
        return job.work_s * self.running.least_pace

    def _give_up(self, waiting: Waiting) -> None:
        """Leaves a job late where it is."""
        self._order.give_up(waiting)
        self._late_s += 0.0 if waiting.put_off else waiting.job.work_s

    def _may_put_off(self, waiting: Waiting) -> bool:
        """True if the time that jobs in time leave over is enough for it and for all that are late or were put off before."""
        left_s = self._last_end_at(waiting.job) - self._now_s
        spare_s = self.running.spare_share * self.running.capacity * left_s
        own_s = 0.0 if waiting.overdue else waiting.job.work_s
        return self.put_off_s + self._late_s + own_s <= spare_s

    def _last_end_at(self, job: Job) -> float:
        return min(job.expires_at, job.due_at + self._options.put_off_limit_s)

    def _put(self, waiting: Waiting) -> None:
        """Puts a job off: it runs when nothing else is due, and at the latest when its last moment is near."""
        self._leave_order(waiting)
        waiting.put_off = True
        self._count_missed(waiting, 0.0)
        self._put_off_queue(waiting.job.worker).add(waiting)
        last_start_at = self._last_end_at(waiting.job) - self._least_s(waiting.job)
        heapq.heappush(self._last_starts, (last_start_at, waiting.number, waiting.job.job_id))

    def _give_turns(self) -> bool:
        """Moves jobs into the order whose last moment comes before all that waits is done. Returns whether there were any."""
        capacity, moved = self.running.capacity, False
        ahead_s = self.running.left_s + self._order.work_s + self.put_off_s
        while self._last_starts and capacity:
            last_start_at, _, job_id = self._last_starts[0]
            waiting = self._waiting.get(job_id)
            if waiting is not None and not waiting.in_order:
                if (last_start_at - self._now_s) * capacity > ahead_s:
                    break
                self._put_off[waiting.job.worker].remove(job_id)
                waiting.latest_end_at = self._last_end_at(waiting.job)
                self._enter(waiting)
                moved = True
            heapq.heappop(self._last_starts)
        return moved

    # ---- places of a job

    def _enter(self, waiting: Waiting) -> None:
        waiting.in_order = True
        if waiting.job.worker is not None and waiting.job.worker not in self.running:
            self._unbind(waiting)
        self._order.add(waiting)
        self._heads.add(waiting)

    def _leave_order(self, waiting: Waiting) -> None:
        self._order.remove(waiting)
        if waiting.overdue and not waiting.put_off:
            self._late_s = self._late_s - waiting.job.work_s if len(self._order) else 0.0
        waiting.in_order = waiting.overdue = False

    def _put_off_queue(self, worker: str | None) -> DeficitRoundRobin:
        return self._put_off.setdefault(worker, DeficitRoundRobin(self._shares))

    def _unbind(self, waiting: Waiting) -> None:
        waiting.job = replace(waiting.job, worker=None)

    def _drop(self, waiting: Waiting) -> None:
        """Takes a job out of the queue, wherever it is."""
        job = waiting.job
        if waiting.in_order:
            self._leave_order(waiting)
        elif job.job_id in self._put_off_queue(job.worker):
            self._put_off[job.worker].remove(job.job_id)
        self._backlogs.remove(job)
        del self._waiting[job.job_id]

    def validate(self) -> None:
        self._backlogs.validate(waiting.job for waiting in self._waiting.values())
        self._order.validate()
        self.running.validate()
        for queue in self._put_off.values():
            queue.validate()
        in_order = {waiting.job.job_id for waiting in self._order}
        put_off = {job_id for queue in self._put_off.values() for job_id in queue}
        assert in_order | put_off == self._waiting.keys() and not in_order & put_off
        assert all(waiting.in_order is (job_id in in_order) for job_id, waiting in self._waiting.items())
        assert all(waiting.put_off or waiting.in_order for waiting in self._waiting.values())
        late = [waiting for waiting in self._order if waiting.overdue and not waiting.put_off]
        assert abs(self._late_s - sum(waiting.job.work_s for waiting in late)) < 1e-3
        unbound = [waiting for waiting in self._waiting.values() if waiting.job.worker is None]
        held = self.running.ready and self.running.least_pace < self.running.ready_paces()[0]
        assert not unbound or not self.running.ready or held, "a job waits beside a worker that is ready, and for no faster one"
        for waiting in self._waiting.values():
            assert waiting.job.worker not in self.running.ready
