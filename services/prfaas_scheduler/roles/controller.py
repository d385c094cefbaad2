"""Long-term control: which pd worker changes its role, and when (paper, section 3.4.3). Pure: events in, instructions out.

Every `every_s` the best split of the site's workers is solved again from the last requests. A worker moves only when two solves
in a row want it for a worthwhile gain, saw the same workers, and enough requests come for it to matter. One moves at a time,
and each role keeps one. The next two solves begin when the move is over, whatever its result.

The speed of a batch fuller than any seen so far is unknown: either it yields no more tokens (the cautious case), or its steps
take as long as before (the hopeful case). Taking a decode worker away must pay in the cautious case, unless prefill is full and
the hopeful one must be tried (where it fails, fuller batches have been seen). Adding a decode worker must pay in the hopeful
case.
"""

from collections import Counter, deque
from dataclasses import dataclass
from math import inf, sqrt
from typing import NamedTuple

from prfaas.capacity.lengths import EmpiricalLengths
from prfaas.capacity.observed import RecentMean, extrapolated
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas_scheduler.fleet import Fleet
from prfaas_scheduler.policies.threshold_resolved import WINDOW_REQUESTS
from prfaas_scheduler.pools import Worker
from prfaas_scheduler.prefill_stage import local_stage, remote_stage
from prfaas_scheduler.roles.events import (
    BeginMove,
    MoveOver,
    MoveRefused,
    MoveResult,
    RequestSeen,
    RoleEvent,
    RoleInstruction,
    RolesDue,
)
from prfaas_scheduler.roles.split import Observed, Split, best_split, split

WINDOW_SOLVES = 5
"""Age, in intervals between solves, beyond which requests are forgotten."""
MIN_REQUESTS = 32
BUSY_SHARE = 0.5
"""Least load, as a share of what the site can carry, at which a move gains anything."""
FULL_SHARE = 0.9
"""Load, as a share of what the site can carry, above which requests wait for long."""
START_TIMEOUT_S = 600.0
"""Time for a worker to appear in its new role once it has drained: it loads the model again."""
OTHER = {Role.PREFILL: Role.DECODE, Role.DECODE: Role.PREFILL}


class _Chance(NamedTuple):
    """Conditions under which a worker may move to a role."""

    to_role: Role
    seen_batches: bool
    """True: compute with batches no fuller than the fullest seen (cautious). False: with all slots full (hopeful)."""
    least_share: float
    """Least load at which to act, as a share of the capacity so computed."""


CHANCES = (
    _Chance(Role.PREFILL, True, BUSY_SHARE),
    _Chance(Role.PREFILL, False, FULL_SHARE),
    _Chance(Role.DECODE, False, BUSY_SHARE),
)


@dataclass(slots=True)
class _Move:
    begun: BeginMove
    began_at: float
    left: bool = False
    """Its heartbeats say that it drains, or have ended."""


class _Wish(NamedTuple):
    """Result of a solve. The next one must want the same for a move to begin."""

    to_role: Role
    workers: frozenset[str]


class _Traffic:
    """The requests of one model."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=WINDOW_REQUESTS)
        self.arrived = 0
        """Requests since the last solve."""

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, now_s: float, tokens: int) -> None:
        self._seen.append((now_s, tokens))
        self.arrived += 1

    def forget(self, before_s: float) -> None:
        while self._seen and self._seen[0][0] < before_s:
            self._seen.popleft()

    def lengths(self) -> EmpiricalLengths:
        return EmpiricalLengths(tokens for _, tokens in self._seen)


class RoleController:
    """Controller of one pd site. `threshold_tokens`: the policy's `fixed_threshold_tokens`."""

    def __init__(
        self, fleet: Fleet, *, every_s: float, drain_s: float, min_gain: float, threshold_tokens: float | None = None
    ) -> None:
        assert every_s > 0
        self._fleet = fleet
        self._every_s = every_s
        self._drain_s = drain_s
        self._min_gain = min_gain
        self._threshold_tokens = threshold_tokens
        self._traffic: dict[str, _Traffic] = {}
        self._wishes: dict[str, _Wish] = {}
        self._failures: Counter[str] = Counter()
        """Failed moves by worker. Workers with fewer are tried first."""
        self._move: _Move | None = None
        self._solved_at = -inf

    @property
    def moving(self) -> BeginMove | None:
        return self._move.begun if self._move else None

    def handle(self, event: RoleEvent) -> list[RoleInstruction]:
        match event:
            case RequestSeen(now_s, model, uncached_tokens):
                if self._fleet.decode_pool(model) is not None:
                    self._traffic.setdefault(model, _Traffic()).add(now_s, uncached_tokens)
            case MoveRefused(now_s, reason):
                if self._move is not None:
                    return [self._over(MoveResult.REFUSED, now_s, reason)]
            case RolesDue(now_s):
                self._fleet.advance(now_s)
                if self._move is not None:
                    return self._watch(self._move, now_s)
                if now_s - self._solved_at >= self._every_s:
                    return self._solve(now_s)
        return []

    def validate(self) -> None:
        assert self._wishes.keys() <= self._traffic.keys()
        assert not (self._move and self._wishes), "no wish stands while a worker moves"
        assert all(len(traffic) <= WINDOW_REQUESTS for traffic in self._traffic.values())

    # ---- a move under way

    def _watch(self, move: _Move, now_s: float) -> list[RoleInstruction]:
        begun = move.begun
        new = self._fleet.workers.get(self._key(begun.worker, begun.to_role))
        old = self._fleet.workers.get(self._key(begun.worker, begun.role))
        took_s = now_s - move.began_at
        if new is not None and _is_live(new, now_s):
            return [self._over(MoveResult.DONE, now_s, f"it took {took_s:.1f} s")]
        move.left = move.left or old is None or old.beat.draining
        if move.left and old is not None and _is_live(old, now_s):
            return [self._over(MoveResult.KEPT, now_s, f"it is a {begun.role} worker again after {took_s:.1f} s")]
        if took_s > begun.drain_s + START_TIMEOUT_S:
            return [self._over(MoveResult.LOST, now_s, f"it is not a {begun.to_role} worker after {took_s:.0f} s")]
        return []

    def _over(self, result: MoveResult, now_s: float, reason: str) -> MoveOver:
        assert self._move is not None
        begun, took_s = self._move.begun, now_s - self._move.began_at
        self._move = None
        self._solved_at = now_s
        if result is MoveResult.DONE:
            self._failures.pop(begun.worker, None)
        else:
            self._failures[begun.worker] += 1
        for traffic in self._traffic.values():
            traffic.arrived = 0
        return MoveOver(begun.worker, begun.to_role, result, took_s, reason)

    # ---- the next one

    def _solve(self, now_s: float) -> list[RoleInstruction]:
        elapsed_s, self._solved_at = now_s - self._solved_at, now_s
        wishes: dict[str, _Wish] = {}
        for model, traffic in self._traffic.items():
            traffic.forget(now_s - WINDOW_SOLVES * self._every_s)
            rate_req_s, traffic.arrived = traffic.arrived / elapsed_s, 0
            found = self._wish(model, traffic, rate_req_s, now_s)
            if found is None:
                continue
            wish, worker, reason = found
            if self._wishes.get(model) == wish:
                return [self._begin(worker, wish.to_role, reason, now_s)]
            wishes[model] = wish
        self._wishes = wishes
        return []

    def _begin(self, worker: Worker, to_role: Role, reason: str, now_s: float) -> BeginMove:
        begun = BeginMove(worker.beat.worker, worker.beat.role, to_role, self._drain_s, reason)
        self._move = _Move(begun, now_s)
        self._wishes = {}
        return begun

    def _wish(self, model: str, traffic: _Traffic, rate_req_s: float, now_s: float) -> tuple[_Wish, Worker, str] | None:
        """(wish, worker to move, why), if one should move."""
        workers = [
            worker
            for worker in self._fleet.workers.values()
            if worker.beat.site == self._fleet.site and worker.beat.model == model
        ]
        if len(traffic) < MIN_REQUESTS or not all(_is_live(worker, now_s) for worker in workers):
            return None
        for to_role, seen_batches, least_share in CHANCES:
            observed = self._observe(model, traffic, workers, seen_batches=seen_batches)
            if observed is None:
                return None
            current, best = split(observed, observed.n_prefill), best_split(observed)
            gain = best.req_s / current.req_s - 1
            wanted = Role.PREFILL if best.n_prefill > current.n_prefill else Role.DECODE
            worthwhile = gain > max(self._min_gain, _noise(len(traffic), observed.n_decode))
            if wanted is to_role and worthwhile and rate_req_s >= least_share * current.req_s:
                break
        else:
            return None
        able = [worker for worker in workers if worker.beat.role is OTHER[to_role] and worker.beat.movable]
        if not able:
            return None
        worker = min(able, key=lambda worker: (self._failures[worker.beat.worker], worker.load, worker.beat.worker))
        wish = _Wish(to_role, frozenset(worker.beat.key for worker in workers))
        return wish, worker, _reason(current, best, gain, observed, rate_req_s)

    def _observe(self, model: str, traffic: _Traffic, workers: list[Worker], *, seen_batches: bool) -> Observed | None:
        """Inputs of Eq 6; None while one of them is not known, a role has no worker, or workers of two builds are there.
        `seen_batches`: as in _Chance."""
        decoders = [worker.beat for worker in workers if worker.beat.role is Role.DECODE]
        fingerprints = {worker.beat.fingerprint for worker in workers}
        if not decoders or len(decoders) == len(workers) or len(fingerprints) > 1:
            return None
        sites = self._fleet.prefill_sites(model, fingerprints.pop())
        local = local_stage(sites.pop(self._fleet.site))
        remotes = [stage for site in sites.values() if (stage := remote_stage(site)) is not None]
        threshold_tokens = self._threshold_tokens
        if threshold_tokens is not None and not remotes:
            if sites:
                return None  # prompts are offloaded over links of which nothing is known
            threshold_tokens = inf  # no site to offload to
        slots = sum(beat.slots for beat in decoders) / len(decoders)
        # One worker's curve, as with prefill times: the one that has seen the fullest batch.
        step_points = max(decoders, key=_fullest).step_points
        if seen_batches and step_points:
            slots = min(slots, step_points[-1][0])
        step_s = extrapolated(step_points, slots)
        answers = [beat.output_tokens for beat in decoders if beat.output_tokens]
        if local is None or not step_s or not answers:
            return None
        return Observed(
            lengths=traffic.lengths(),
            output_tokens=sum(answers) / len(answers),
            local=local,
            remotes=remotes,
            n_decode=len(decoders),
            slots=slots,
            step_s=step_s,
            threshold_tokens=threshold_tokens,
        )

    def _key(self, worker: str, role: Role) -> str:
        return f"{self._fleet.site}.{role}.{worker}"


def _noise(requests: int, n_decode: int) -> float:
    """Least relative difference of two measured rates that is more than noise, by the number of requests and answers."""
    return 2 / sqrt(min(requests, n_decode * RecentMean.REMEMBERED))


def _is_live(worker: Worker, now_s: float) -> bool:
    return not worker.beat.draining and not worker.is_silent(now_s)


def _fullest(beat: Heartbeat) -> float:
    return beat.step_points[-1][0] if beat.step_points else 0.0


def _reason(current: Split, best: Split, gain: float, observed: Observed, rate_req_s: float) -> str:
    return (
        f"{current} (prefill + decode) carry {current.req_s:.3g} requests/s, {best} would carry {gain:.0%} more: "
        f"{rate_req_s:.3g} come, with {observed.lengths.mean_tokens:.0f} tokens to prefill and {observed.output_tokens:.0f} to "
        "answer"
    )
