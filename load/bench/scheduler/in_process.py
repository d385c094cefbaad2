"""SchedulerCore alone, in virtual time: workers beat at their real rate, prefills end when they would, decisions are timed."""

import heapq
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from load.bench.scheduler.caches import BLOCK_TOKENS, Caches
from load.bench.scheduler.fleet import (
    HOME,
    LENGTHS,
    MODEL,
    OUTPUT_TOKENS,
    PD,
    PRFAAS,
    RATE_REQ_S_PER_WORKER,
    STEP_S,
    Fleet,
    make_fleet,
    make_policy,
)
from load.report import percentile
from prfaas.bus.presence import INTERVAL_S
from prfaas.contracts.terms import Role
from prfaas.contracts.to_gateway import Placement, Refusal
from prfaas.contracts.to_scheduler import AttemptEnded, Heartbeat, LinkEstimate, PlaceRequest
from prfaas_scheduler.events import AttemptOver, CacheChanged, HeartbeatReceived, LinkMeasured, PlacementRequested
from prfaas_scheduler.pull_sources import PullOptions
from prfaas_scheduler.service_core import SchedulerCore

PREEMPTED_US = 100.0
IDLE_S = 1e-4
"""Pause before each decision."""
WARM_UP_S = 40.0
"""Virtual: longer than a request lives."""
TTFT_DEADLINE_S = 30.0


class InProcess(msgspec.Struct, frozen=True, kw_only=True):
    policy: str
    workers: int
    cached_blocks: int
    """Pairs of worker and block that the scheduler knows."""
    decisions: int
    decisions_per_s: float
    """Rate of one core that does nothing else: 1 over the mean latency."""
    p50_us: float
    p99_us: float
    max_us: float
    p99_cpu_us: float
    """CPU time alone: without the time in which the machine ran something else."""
    max_cpu_us: float
    preempted_share: float
    """Share of decisions that waited more than PREEMPTED_US for a core. Above 1 % the p99 is the machine's, not ours."""
    heartbeat_us: float
    """Mean time to take in one."""
    change_us: float
    """Mean time to take in a worker's announcement of a new conversation's blocks in the place of an old one's."""
    core_share: float
    """Share of one core that decisions, heartbeats and all else take at the fleet's real rates."""
    outstanding: float
    """Placed prefills that are not over, in the mean."""
    offloaded_share: float
    hit_share: float
    """Decisions that expect more than the common system prompt in the prefill worker's cache."""
    refused: int


class _World:
    """A clock, the events that are due, and just enough of workers to say when a prefill ends and how many decode."""

    def __init__(self, fleet: Fleet, core: SchedulerCore, caches: Caches, seed: int) -> None:
        self.fleet, self.core, self.caches = fleet, core, caches
        self.at_site = {
            (site, role): [beat for beat in fleet.beats if (beat.site, beat.role) == (site, role)]
            for site, role in {(beat.site, beat.role) for beat in fleet.beats}
        }
        self.now_s = 0.0
        self.random = random.Random(seed)
        self.running: Counter[str] = Counter()
        self.free_s: dict[str, list[float]] = {}
        """Heap of the moments at which prefill workers are free, by site."""
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.forget_times()
        for beat in fleet.beats:
            if beat.role is Role.PREFILL:
                self.free_s.setdefault(beat.site, []).append(0.0)
            self._repeat(self.random.uniform(0, INTERVAL_S), lambda beat=beat: self._beat(beat))  # type: ignore[misc]
        for link in fleet.links:
            self._repeat(self.random.uniform(0, INTERVAL_S), lambda link=link: self._measure(link))  # type: ignore[misc]

    def forget_times(self) -> None:
        self.heartbeat_ns = self.heartbeats = self.change_ns = self.changes = self.other_ns = 0

    def advance(self, until_s: float) -> None:
        while self._due[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(self._due)
            action()
        self.now_s = until_s

    def placed(self, request_id: str, tokens: int, placement: Placement) -> None:
        site, profile = placement.prefill_site, PD if placement.prefill_site == HOME else PRFAAS
        end_s = max(self.now_s, heapq.heappop(self.free_s[site])) + profile.prefill_s(tokens)
        heapq.heappush(self.free_s[site], end_s)
        worker = placement.decode_worker
        self.running[worker] += 1
        ended = AttemptEnded(request_id=request_id, site=site, verified=True)
        self._at(end_s, lambda: self._over(ended))
        self._at(end_s + OUTPUT_TOKENS * STEP_S, lambda: self._finished(worker))

    def _at(self, due_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (due_s, next(self._order), action))

    def _repeat(self, due_s: float, action: Callable[[], None]) -> None:
        def again() -> None:
            action()
            self._repeat(due_s + INTERVAL_S, action)

        self._at(due_s, again)

    def _beat(self, beat: Heartbeat) -> None:
        # Decoded from bytes in the live service: a new object each time.
        event = HeartbeatReceived(self.now_s, msgspec.structs.replace(beat, running=self.running[beat.worker]))
        begun_ns = time.perf_counter_ns()
        self.core.handle(event)
        self.heartbeat_ns += time.perf_counter_ns() - begun_ns
        self.heartbeats += 1

    def _measure(self, link: LinkEstimate) -> None:
        self._timed(LinkMeasured(self.now_s, link))

    def _over(self, ended: AttemptEnded) -> None:
        self._timed(AttemptOver(self.now_s, ended))
        if self.caches.blocks:
            for site, role in ((ended.site, Role.PREFILL), (HOME, Role.DECODE)):
                self._change(self.random.choice(self.at_site[site, role]))

    def _change(self, worker: Heartbeat) -> None:
        event = CacheChanged(self.now_s, self.caches.stored(worker))
        begun_ns = time.perf_counter_ns()
        self.core.handle(event)
        self.change_ns += time.perf_counter_ns() - begun_ns
        self.changes += 1

    def _timed(self, event: LinkMeasured | AttemptOver) -> None:
        begun_ns = time.perf_counter_ns()
        self.core.handle(event)
        self.other_ns += time.perf_counter_ns() - begun_ns

    def _finished(self, worker: str) -> None:
        self.running[worker] -= 1


@dataclass
class _Decided:
    """Decisions that are measured, and what was decided."""

    wall_ns: list[int] = field(default_factory=list)
    cpu_ns: list[int] = field(default_factory=list)
    preempted: int = 0
    offloaded: int = 0
    refused: int = 0
    hits: int = 0
    outstanding: int = 0
    """Sum over all decisions of the requests placed and not over."""

    def add(self, answer: Placement | Refusal, wall_ns: int, cpu_ns: int, outstanding: int) -> None:
        self.wall_ns.append(wall_ns)
        self.cpu_ns.append(cpu_ns)
        self.preempted += wall_ns - cpu_ns > PREEMPTED_US * 1e3
        self.refused += isinstance(answer, Refusal)
        self.offloaded += isinstance(answer, Placement) and answer.prefill_site != HOME
        self.hits += isinstance(answer, Placement) and answer.prefill_worker is not None
        self.outstanding += outstanding


def _request(number: int, tokens: int, hashes: bytes) -> PlaceRequest:
    return PlaceRequest(
        request_id=f"r{number}",
        model=MODEL,
        prompt_tokens=tokens + 1,
        max_tokens=OUTPUT_TOKENS,
        ttft_deadline_s=TTFT_DEADLINE_S,
        block_hashes=hashes,
        block_tokens=BLOCK_TOKENS,
    )


def measure(policy: str, workers: int, decisions: int, cached_blocks: int = 0, seed: int = 1) -> InProcess:
    fleet = make_fleet(workers)
    remotes = tuple(dict.fromkeys(link.source for link in fleet.links))
    core = SchedulerCore(HOME, make_policy(policy), pulls=PullOptions(True, remotes))
    caches = Caches(fleet, cached_blocks, seed)
    world = _World(fleet, core, caches, seed)
    world.advance(INTERVAL_S)
    _fill(core, caches)
    rate_req_s = workers * RATE_REQ_S_PER_WORKER
    decided = _Decided()
    now_s, warm_at_s = INTERVAL_S, INTERVAL_S + WARM_UP_S
    for number in itertools.count():
        now_s += world.random.expovariate(rate_req_s)
        world.advance(now_s)
        if not decided.wall_ns and now_s >= warm_at_s:
            world.forget_times()
            warm_at_s = now_s
        tokens, hashes = caches.prompt() if cached_blocks else (round(LENGTHS.quantile(world.random.random())), b"")
        event = PlacementRequested(now_s, _request(number, tokens, bytes(hashes)))
        # The live process is mostly idle: it comes to a decision from sleep, with cold caches and a fresh time slice.
        if now_s >= warm_at_s:
            time.sleep(IDLE_S)
        begun_cpu_ns, begun_ns = time.thread_time_ns(), time.perf_counter_ns()
        (answered,) = core.handle(event)
        ended_ns, ended_cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
        answer = answered.answer
        if isinstance(answer, Placement):
            # A worker that holds the prompt's prefix computes the rest.
            world.placed(event.request.request_id, tokens - answered.cached_tokens, answer)
        if now_s < warm_at_s:
            continue
        decided.add(answer, ended_ns - begun_ns, ended_cpu_ns - begun_cpu_ns, len(core.fleet.placed))
        if len(decided.wall_ns) == decisions:
            break
    core.validate()
    return _figures(policy, workers, world, decided, measured_s=now_s - warm_at_s)


def _figures(policy: str, workers: int, world: _World, decided: _Decided, measured_s: float) -> InProcess:
    decisions = len(decided.wall_ns)
    busy_ns = sum(decided.wall_ns) + world.heartbeat_ns + world.change_ns + world.other_ns
    return InProcess(
        policy=policy,
        workers=workers,
        cached_blocks=world.core.fleet.directory.blocks,
        decisions=decisions,
        decisions_per_s=decisions / (sum(decided.wall_ns) / 1e9),
        p50_us=percentile(decided.wall_ns, 0.5) / 1e3,
        p99_us=percentile(decided.wall_ns, 0.99) / 1e3,
        max_us=max(decided.wall_ns) / 1e3,
        p99_cpu_us=percentile(decided.cpu_ns, 0.99) / 1e3,
        max_cpu_us=max(decided.cpu_ns) / 1e3,
        preempted_share=decided.preempted / decisions,
        heartbeat_us=world.heartbeat_ns / world.heartbeats / 1e3,
        change_us=world.change_ns / world.changes / 1e3 if world.changes else 0.0,
        core_share=busy_ns / 1e9 / measured_s,
        outstanding=decided.outstanding / decisions,
        offloaded_share=decided.offloaded / decisions,
        hit_share=decided.hits / decisions,
        refused=decided.refused,
    )


def _fill(core: SchedulerCore, caches: Caches) -> None:
    """The workers announce what they hold."""
    for changed in caches.announced():
        core.handle(CacheChanged(INTERVAL_S, changed))
    assert core.fleet.directory.blocks == caches.blocks, "all of it is known"
