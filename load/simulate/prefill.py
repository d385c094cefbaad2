"""One site's prefill workers behind their shared queue."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import simpy

from load.simulate.cache import BlockCache
from load.simulate.link import Link
from load.simulate.scenario import MODEL, PrefillPool
from prfaas.capacity.profiles import Profile
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import BlocksChanged
from prfaas.engine.emulated_model import kv_line
from prfaas.sealing.config import SealingConfig
from prfaas.sealing.job_seal import JobSeals
from prfaas_prefill_worker.announced_queue import SharedQueue
from prfaas_prefill_worker.events import PrefillEnded
from prfaas_prefill_worker.service_core import PrefillCore

PIECES = 8
"""A transfer leaves in this many parts, spread over its prefill."""
CHUNK_TOKENS = 8192
"""Chunk size, in tokens of the profile."""
WINDOW_PIECES = 2
"""Parts on the way at once: more would be a queue in front of the link; a prefill waits instead."""


class Prompt(NamedTuple):
    tokens: int
    """Tokens to prefill."""
    blocks: Sequence[int] = ()
    """Names of the whole blocks of these tokens."""
    block_tokens: int = 0


class Job:
    """One attempt to prefill one prompt and to have its KV where it will be decoded."""

    def __init__(
        self,
        env: simpy.Environment,
        prompt: Prompt,
        link: Link | None,
        *,
        from_token: int = 0,
        worker: str | None = None,
        deferred: bool = False,
    ) -> None:
        """`link`: None within a site. `from_token`: first token that full layers ship. `worker`: the only one that may take it.
        `deferred`: taken only when no other job waits."""
        self.prompt = prompt
        self.from_token = from_token
        self.worker = worker
        self.deferred = deferred
        self.cached_tokens = 0
        self.link = link
        self.verified: simpy.Event = env.event()
        self.cancelled: simpy.Event = env.event()

    def arrived(self, _: simpy.Event) -> None:
        """Callback of the last piece's arrival."""
        self.verified.succeed()

    def cancel(self) -> None:
        if not self.cancelled.triggered:
            self.cancelled.succeed()


class PrefillWorker:
    def __init__(self, env: simpy.Environment, site: str, name: str, cache_blocks: int) -> None:
        self.name = name
        self.leaving = False
        """True once it only takes jobs that are bound to it."""
        self.left: simpy.Event = env.event()
        self.own: deque[Job] = deque()
        """Jobs that are bound to it; it takes these first."""
        self.cache = BlockCache(site, name, Role.PREFILL, cache_blocks)
        self.core = PrefillCore(MODEL, "", 1, JobSeals(SealingConfig()).open)
        """Core that observes T_prefill, which is what live workers announce."""
        self.busy_s = 0.0
        self.queue = SharedQueue(self.core.observed)


class PrefillStation:
    def __init__(
        self,
        env: simpy.Environment,
        site: str,
        pool: PrefillPool,
        token_scale: float,
        time_scale: float,
        announce: Callable[[BlocksChanged], None] = lambda changed: None,
    ) -> None:
        self.site = site
        self._announce = announce
        self.cached_tokens = 0
        """Tokens that did not have to be computed."""
        self._env = env
        self._profile = pool.profile
        self._token_scale = token_scale
        self._time_scale = time_scale
        self.kv_points = tuple((point.tokens / token_scale, point.kv_bytes) for point in pool.profile.prefill)
        self._queue: deque[Job] = deque()
        self._deferred: deque[Job] = deque()
        self._idle: deque[tuple[PrefillWorker, simpy.Event]] = deque()
        self._cache_blocks = pool.cache_blocks
        self.workers: list[PrefillWorker] = []
        """Workers, those that have left included."""
        self._by_name: dict[str, PrefillWorker] = {}
        for index in range(pool.workers):
            self.add(f"p{index}")

    def add(self, name: str) -> PrefillWorker:
        worker = self._by_name[name] = PrefillWorker(self._env, self.site, name, self._cache_blocks)
        self.workers.append(worker)
        # Live workers warm up with a chunk of no request, so that the first placement has a figure.
        chunk_tokens = round(CHUNK_TOKENS / self._token_scale)
        worker.core.handle(PrefillEnded(chunk_tokens, self.prefill_s(chunk_tokens)))
        self._env.process(self._work(worker))
        return worker

    def leave(self, name: str) -> PrefillWorker:
        """Lets a worker leave: its `left` happens when its own jobs are done."""
        worker = self._by_name[name]
        worker.leaving = True
        self._wake(worker)
        return worker

    def submit(self, job: Job) -> None:
        if job.worker is None:
            (self._deferred if job.deferred else self._queue).append(job)
            if self._idle:
                self._idle.popleft()[1].succeed()
            return
        worker = self._by_name[job.worker]
        worker.own.append(job)
        self._wake(worker)

    def _wake(self, worker: PrefillWorker) -> None:
        for place, (idle, wake) in enumerate(self._idle):
            if idle is worker:
                del self._idle[place]
                wake.succeed()
                break

    @property
    def waiting(self) -> int:
        """Jobs that no worker has taken; deferred ones do not count, as they make no other job wait."""
        return len(self._queue)

    def prefill_s(self, tokens: int) -> float:
        return self._profile.prefill_s(tokens * self._token_scale) / self._time_scale

    def _queue_of(self, worker: PrefillWorker) -> deque[Job]:
        """Queue with its next job; empty if there is none."""
        return worker.own if worker.own or worker.leaving else self._queue or self._deferred

    def _work(self, worker: PrefillWorker) -> Generator[simpy.Event, Any, None]:
        while True:
            while not (waiting := self._queue_of(worker)):
                if worker.leaving:
                    worker.left.succeed()
                    return
                wake = self._env.event()
                worker.queue.idle()
                self._idle.append((worker, wake))
                yield wake
            job = waiting.popleft()
            if job.cancelled.triggered:
                continue
            started_at = self._env.now
            prompt = job.prompt
            job.cached_tokens = worker.cache.cached(prompt.blocks) * prompt.block_tokens
            worker.queue.take(prompt.tokens - job.cached_tokens, self._env.now)
            yield from self._prefill(job)
            if not job.cancelled.triggered:
                # As live workers do: of what was computed, and what the link made them wait for is no part of T_prefill.
                computed_tokens = prompt.tokens - job.cached_tokens
                if computed_tokens:
                    worker.core.handle(PrefillEnded(computed_tokens, self.prefill_s(computed_tokens)))
                self.cached_tokens += job.cached_tokens
                if (changed := worker.cache.use(prompt.blocks)) is not None:
                    self._announce(changed)
            worker.busy_s += self._env.now - started_at

    def _prefill(self, job: Job) -> Generator[simpy.Event, Any, None]:
        """T of what is computed, as the emulated engine takes it: attention's time for the cached prefix is left out."""
        scale = self._token_scale
        sizes = piece_bytes(self._profile, job.prompt.tokens * scale, job.from_token * scale)
        computed_tokens = job.prompt.tokens - job.cached_tokens
        on_the_way: deque[simpy.Event] = deque()
        begun_s = 0.0
        for index, size_bytes in enumerate(sizes):
            ended_s = max(begun_s, self.prefill_s(computed_tokens * (index + 1) // PIECES) if computed_tokens else 0.0)
            yield self._env.timeout(ended_s - begun_s)
            begun_s = ended_s
            if job.link is None:
                continue
            while len(on_the_way) >= WINDOW_PIECES and not job.cancelled.triggered:
                yield on_the_way.popleft() | job.cancelled
            if job.cancelled.triggered:
                return
            on_the_way.append(self._arrival(job.link, size_bytes))
        if job.link is None:
            job.verified.succeed()
        else:
            on_the_way[-1].callbacks.append(job.arrived)

    def _arrival(self, link: Link, size_bytes: float) -> simpy.Event:
        at_s = link.send(size_bytes, self._env.now)
        # Never, on a link that stays cut: the attempt's own deadline ends the wait.
        return self._env.event() if at_s == float("inf") else self._env.timeout(at_s - self._env.now)


def piece_bytes(profile: Profile, tokens: float, from_token: float = 0.0) -> list[float]:
    """S_kv(l) as it leaves: what grows with the tokens, from `from_token` on, with each chunk, the recurrent state after the
    last."""
    total_bytes = profile.kv_bytes(tokens)
    state_bytes = min(total_bytes, max(0.0, kv_line(profile)[0]))
    sizes = [(total_bytes - state_bytes) * (1 - from_token / tokens) / PIECES] * PIECES
    sizes[-1] += state_bytes
    return sizes
