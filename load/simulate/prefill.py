"""One site's prefill workers behind their shared queue: first come first served, or the site's own queue with due dates."""

import random
from collections import deque
from collections.abc import Callable
from math import exp, inf

from load.simulate.cache import Kept, WorkerCache, kept_by
from load.simulate.clock import Clock
from load.simulate.prefill_job import PIECES, Job, ignore, piece_bytes
from load.simulate.scenario import MODEL, PrefillPool
from prfaas.capacity.observed import ObservedTimes
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import BlocksChanged
from prfaas.kvcache.pinned_prefix import PinnedPrefix
from prfaas_prefill_worker.announced_queue import SharedQueue
from prfaas_scheduler.queue import events as queue_events
from prfaas_scheduler.queue.events import Dispatch, JobArrived, JobGone, TimePassed, WorkerGone, WorkerReady
from prfaas_scheduler.queue.site_queue import SiteQueue
from prfaas_scheduler.speeds import Speeds

CHUNK_TOKENS = 8192
"""Chunk size, in tokens of the profile."""
WINDOW_PIECES = 2
"""Parts on the way at once: more would be a queue in front of the link; a prefill waits instead."""


class PrefillWorker:
    def __init__(self, site: str, name: str, kept: Kept, cache_bytes: int, slowness: float) -> None:
        self.name = name
        self.leaving = False
        """True once it only takes jobs that are bound to it."""
        self.has_left = False
        self.on_left: Callable[[], None] = ignore
        self.busy = False
        self.own: deque[Job] = deque()
        """Jobs that are bound to it; it takes these first."""
        self.cache = WorkerCache(site, name, Role.PREFILL, kept, cache_bytes)
        self.observed = ObservedTimes()
        """Observed T_prefill, which is what live workers announce."""
        self.busy_s = 0.0
        self.queue = SharedQueue(self.observed)
        self.slowness = slowness
        """Factor on all its times."""
        self.sending = 0
        """Prefixes that it sends to others."""


BeginPull = Callable[["PrefillStation", PrefillWorker, Job, Callable[[], None]], None]
"""Fetches what a job's prefix may be pulled of, or gives up, and then calls back."""


class _Run:
    """One job on one worker."""

    __slots__ = (
        "arrivals_at",
        "computed",
        "computed_tokens",
        "job",
        "piece_s",
        "prefix",
        "sizes",
        "started_at",
        "taken_at",
        "worker",
    )

    def __init__(
        self,
        worker: PrefillWorker,
        job: Job,
        prefix: PinnedPrefix | None,
        computed_tokens: int,
        *,
        taken_at: float,
        started_at: float,
    ) -> None:
        """`taken_at`: before its pull, if it had one."""
        self.worker, self.job, self.computed_tokens = worker, job, computed_tokens
        self.taken_at, self.started_at = taken_at, started_at
        self.prefix = prefix
        """Cached prefix in use; None where nothing is kept."""
        self.computed = 0
        """Pieces that are computed."""
        self.sizes: list[float] = []
        self.piece_s: list[float] = []
        """Time that each piece takes to compute."""
        self.arrivals_at: list[float] = []


class PrefillStation:
    def __init__(
        self,
        clock: Clock,
        site: str,
        pool: PrefillPool,
        token_scale: float,
        time_scale: float,
        announce: Callable[[BlocksChanged], None] = lambda changed: None,
        *,
        block_tokens: int = 512,
        pull: BeginPull | None = None,
    ) -> None:
        """`block_tokens`: size of a block of the caches, in tokens of the profile. `pull`: called for a job that may pull; None:
        none does."""
        self.site = site
        self._pull = pull
        self.pull_bytes_per_s = 0.0
        """Rate of the last pulls within the site; 0 before the first."""
        self._announce = announce
        self.cached_tokens = 0
        """Tokens that did not have to be computed."""
        self._clock = clock
        self._profile = pool.profile
        self._token_scale = token_scale
        self._time_scale = time_scale
        self.kv_points = tuple((point.tokens / token_scale, point.kv_bytes) for point in pool.profile.prefill)
        self._fifo: deque[Job] = deque()
        self._idle: dict[str, PrefillWorker] = {}
        """Workers without a job, the one that has waited longest first."""
        self.queue = SiteQueue(pool.queue) if pool.queue is not None else None
        """The queue with due dates; None: first come first served."""
        self._speeds = Speeds()
        """Times of its workers, as each has told when it became ready."""
        self._queued: dict[str, Job] = {}
        self._kept, self._cache_bytes = kept_by(Role.PREFILL, pool.profile, block_tokens), pool.cache_bytes
        self._noise, self._random = pool.noise, random.Random(f"{site} noise")
        self.workers: list[PrefillWorker] = []
        """Workers, those that have left included."""
        self._by_name: dict[str, PrefillWorker] = {}
        for index in range(pool.workers):
            self.add(f"p{index}", pool.slowness[index] if index < len(pool.slowness) else 1.0)

    def add(self, name: str, slowness: float = 1.0) -> PrefillWorker:
        """Adds a worker. `slowness`: factor on its times."""
        worker = self._by_name[name] = PrefillWorker(self.site, name, self._kept, self._cache_bytes, slowness)
        self.workers.append(worker)
        # Live workers warm up with a chunk of no request, so that the first placement has a figure.
        chunk_tokens = round(CHUNK_TOKENS / self._token_scale)
        worker.observed.observe(chunk_tokens, self.prefill_s(chunk_tokens) * slowness)
        self._ask(worker)
        return worker

    def leave(self, name: str, on_left: Callable[[], None]) -> None:
        """Lets a worker leave. Calls back when its own jobs are done."""
        worker = self._by_name[name]
        worker.leaving, worker.on_left = True, on_left
        if self.queue is not None:
            self._speeds.gone(name)
            self._obey(self.queue.handle(WorkerGone(self._clock.now_s, name)))
        if not worker.busy:
            self._idle.pop(name, None)
            self._ask(worker)

    def submit(self, job: Job) -> None:
        if self.queue is not None:
            self._submit_to_queue(self.queue, job)
        elif job.worker is None:
            self._fifo.append(job)
            if self._idle:
                self._ask(self._idle.pop(next(iter(self._idle))))
        else:
            worker = self._by_name[job.worker]
            worker.own.append(job)
            if not worker.busy:
                self._idle.pop(worker.name, None)
                self._ask(worker)

    def withdraw(self, job: Job) -> None:
        """Cancels a job, wherever it is."""
        job.cancel()
        if self._queued.pop(job.job_id, None) is not None:
            assert self.queue is not None
            self._obey(self.queue.handle(JobGone(self._clock.now_s, job.job_id)))

    def pass_time(self) -> None:
        if self.queue is not None:
            self._obey(self.queue.handle(TimePassed(self._clock.now_s)))

    @property
    def waiting(self) -> int:
        """Jobs that no worker has taken."""
        return len(self._fifo) if self.queue is None else len(self.queue)

    def prefill_s(self, tokens: int, cached_tokens: int = 0) -> float:
        """Time of tokens behind cached ones, to which they attend as well."""
        scale = self._token_scale
        return self._profile.rest_s((cached_tokens + tokens) * scale, cached_tokens * scale) / self._time_scale

    def chunks_s(self, start: int, end: int) -> float:
        """Time that the chunks of tokens [start, end) take, without what every prefill takes."""
        scale = self._token_scale
        return (self._profile.prefill_s(end * scale) - self._profile.prefill_s(start * scale)) / self._time_scale

    def worker(self, name: str) -> PrefillWorker | None:
        return self._by_name.get(name)

    def announce(self, changed: BlocksChanged) -> None:
        self._announce(changed)

    # ---- the queue with due dates

    def _submit_to_queue(self, queue: SiteQueue, job: Job) -> None:
        cache = self._by_name[job.worker].cache if job.worker is not None else None
        cached_tokens = cache.cached(job.prompt.blocks) * job.prompt.block_tokens if cache is not None else 0
        arriving = queue_events.Job(
            job_id=job.job_id,
            model=MODEL,
            tenant=job.tenant,
            prefill_tokens=job.prompt.tokens,
            work_s=self.predicted_s(job, cached_tokens),
            arrived_at=self._clock.now_s,
            due_at=job.due_at,
            expires_at=job.expires_at,
            worker=job.worker,
        )
        self._queued[job.job_id] = job
        self._obey(queue.handle(JobArrived(self._clock.now_s, arriving)))

    def predicted_s(self, job: Job, cached_tokens: int) -> float:
        """Predicted time that a worker of pace 1 is held by a job, by what all of them have observed: the link may be slower than
        the prefill, and all workers share it."""
        work_s = self._speeds.work_s(max(1, job.prompt.tokens - cached_tokens)) or 0.0
        if job.link is None:
            return work_s
        rate = job.link.rate(self._clock.now_s)
        if not rate:
            return work_s
        shipped = self._profile.kv_bytes(job.prompt.tokens * self._token_scale) * (1 - job.from_token / job.prompt.tokens)
        return max(work_s, shipped * len(self._by_name) / rate)

    def _obey(self, instructions: list[queue_events.Instruction]) -> None:
        for each in instructions:
            job = self._queued.pop(each.job_id)
            if isinstance(each, Dispatch):
                self._begin(self._by_name[each.worker], job)
            else:
                job.on_refused(each.message)

    # ---- a job on a worker

    def _ask(self, worker: PrefillWorker) -> None:
        """Gives a worker its next job, or makes it idle."""
        worker.busy = False
        if self.queue is not None:
            if worker.leaving:
                self._left(worker)
            else:
                self._speeds.announced(worker.name, worker.observed.points())
                pace = self._speeds.pace(worker.name)
                self._obey(self.queue.handle(WorkerReady(self._clock.now_s, worker.name, MODEL, pace)))
            return
        while waiting := worker.own if worker.own or worker.leaving else self._fifo:
            job = waiting.popleft()
            if not job.cancelled:
                self._begin(worker, job)
                return
        if worker.leaving:
            self._left(worker)
            return
        worker.queue.idle()
        self._idle[worker.name] = worker

    def _left(self, worker: PrefillWorker) -> None:
        worker.has_left = True
        worker.on_left()

    def _begin(self, worker: PrefillWorker, job: Job) -> None:
        """Pulls what it may, and computes what is not cached then."""
        worker.busy = True
        taken_at = self._clock.now_s
        if job.pull is None or self._pull is None:
            self._compute(worker, job, taken_at)
        else:
            self._pull(self, worker, job, lambda: self._pulled(worker, job, taken_at))

    def _pulled(self, worker: PrefillWorker, job: Job, taken_at: float) -> None:
        if not job.cancelled:
            self._compute(worker, job, taken_at)
            return
        worker.busy_s += self._clock.now_s - taken_at
        self._ask(worker)

    def _compute(self, worker: PrefillWorker, job: Job, taken_at: float) -> None:
        """Takes the time that the emulated engine takes for it."""
        prompt = job.prompt
        prefix = worker.cache.pin(prompt.blocks)
        job.cached_tokens = cached_tokens = len(prefix.blocks) * prompt.block_tokens if prefix is not None else 0
        computed_tokens = prompt.tokens - cached_tokens
        worker.queue.take(computed_tokens, self._clock.now_s)
        run = _Run(worker, job, prefix, computed_tokens, taken_at=taken_at, started_at=self._clock.now_s)
        factor = worker.slowness * (exp(self._random.gauss(0.0, self._noise)) if self._noise else 1.0)
        if job.link is None:
            whole_s = self.prefill_s(computed_tokens, cached_tokens) * factor if computed_tokens else 0.0
            self._clock.after(whole_s, self._local_done, run)
            return
        run.sizes = piece_bytes(self._profile, prompt.tokens * self._token_scale, job.from_token * self._token_scale)
        begun_s = 0.0
        for index in range(PIECES):
            done = computed_tokens * (index + 1) // PIECES
            ended_s = self.prefill_s(done, cached_tokens) * factor if computed_tokens else 0.0
            run.piece_s.append(max(0.0, ended_s - begun_s))
            begun_s = max(begun_s, ended_s)
        self._clock.after(run.piece_s[0], self._computed, run, 0)

    def _local_done(self, run: _Run) -> None:
        run.computed = PIECES
        run.job.arrived()
        self._end(run)

    def _computed(self, run: _Run, index: int) -> None:
        """A piece is computed: it is sent once the window has room."""
        run.computed = index + 1
        if run.job.cancelled:
            self._end(run)
        elif index >= WINDOW_PIECES and (free_at := run.arrivals_at[index - WINDOW_PIECES]) > self._clock.now_s:
            if free_at == inf:  # the link stays cut: the attempt's own deadline ends the wait
                run.job.on_stopped = lambda: self._end(run)
            else:
                self._clock.at(free_at, self._send, run, index)
        else:
            self._send(run, index)

    def _send(self, run: _Run, index: int) -> None:
        if run.job.cancelled:
            self._end(run)
            return
        assert run.job.link is not None
        run.arrivals_at.append(run.job.link.send(run.sizes[index], self._clock.now_s))
        if index + 1 < PIECES:
            self._clock.after(run.piece_s[index + 1], self._computed, run, index + 1)
            return
        if run.arrivals_at[-1] != inf:
            self._clock.at(run.arrivals_at[-1], run.job.arrived)
        self._end(run)

    def _end(self, run: _Run) -> None:
        """Frees the worker."""
        worker, job = run.worker, run.job
        job.on_stopped = ignore
        if not job.cancelled:
            # As live workers do: of what was computed, and what the link made them wait for is no part of T_prefill.
            if run.computed_tokens:
                observed_s = sum(run.piece_s) if run.piece_s else self._clock.now_s - run.started_at
                worker.observed.observe(run.computed_tokens, observed_s)
            self.cached_tokens += job.cached_tokens
        if run.prefix is not None:
            # What was computed stays, even if nobody wants the answer any more.
            tokens = job.cached_tokens + run.computed_tokens * run.computed // PIECES
            if (changed := worker.cache.release(run.prefix, tokens // job.prompt.block_tokens)) is not None:
                self._announce(changed)
        worker.busy_s += self._clock.now_s - run.taken_at
        self._ask(worker)
