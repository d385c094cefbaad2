"""Shares one link's egress out to the workers of a site, as leases that never exceed its budget together. Pure: time comes in.

Shares are max-min fair: a worker that wants less than its part gets that, and the others share the rest by their transfers. A
worker may use what it held until it has told that it took less, so another one gets what is freed a moment later and not before.
A silent worker may be alive and go on by itself: its equal part is kept for a while. Segments that TCP sends again count against
the budget too: a link that loses segments has less of it for KV.
"""

from dataclasses import dataclass
from math import inf

from prfaas.contracts.to_prefill import LEASE_S, EgressLease
from prfaas.contracts.to_probe import EGRESS_HEADROOM, EgressAsked

REMEMBER_S = 10.0
"""Time that the part of a silent worker is kept."""
BUSY_S, IDLE_S = 0.1, 0.5
"""Pauses between two questions of a worker with transfers, and of one without."""
HURRY_S = 0.02
"""Pause before a worker asks for what another is about to give back, or tells that it took less."""
_ENOUGH = 0.95
"""A difference below this waits until it is asked anyway."""
_MOST_LOSS = 0.5
"""Largest share of lost segments that is believed: few segments on an idle link say little."""
_FLOOR = 0.05
"""Share of its fair part that a worker with transfers gets at least, so that it can begin."""


@dataclass(slots=True)
class _Worker:
    asked: EgressAsked
    asked_s: float
    granted_bytes_per_s: float = 0.0
    """Rate in the last answer."""


class EgressAllocator:
    def __init__(self, budget_bytes_per_s: float | None, now_s: float) -> None:
        self._whole = None if budget_bytes_per_s is None else (1 - EGRESS_HEADROOM) * budget_bytes_per_s
        self._capacity = self._whole
        self._lost_more_s = -inf
        """Moment of the last cut: leases that were given before hold for a while."""
        self._settled_s = now_s + LEASE_S
        """Moment until which workers may hold leases of an earlier probe without having asked this one."""
        self._workers: dict[str, _Worker] = {}

    def ask(self, asked: EgressAsked, now_s: float, goodput_bytes_per_s: float | None, rtt_s: float | None) -> EgressLease | None:
        """Returns the worker's next lease; None: not yet, it goes on as it does."""
        for name in [name for name, worker in self._workers.items() if now_s - worker.asked_s > REMEMBER_S]:
            del self._workers[name]
        if asked.leaving:
            self._workers.pop(asked.worker, None)
            return EgressLease(bytes_per_s=0.0, alone_bytes_per_s=0.0, share=1.0, ask_again_s=IDLE_S)
        self._workers[asked.worker] = worker = _Worker(asked, now_s)
        if now_s < self._settled_s:
            return None
        target = self._targets(now_s, goodput_bytes_per_s)
        share = self._share(target, asked.worker)
        if self._capacity is None:
            return EgressLease(
                bytes_per_s=None,
                alone_bytes_per_s=None,
                share=share,
                ask_again_s=BUSY_S if asked.transfers else IDLE_S,
                goodput_bytes_per_s=goodput_bytes_per_s,
                rtt_s=rtt_s,
            )
        free = self._capacity - sum(self._held(name, now_s) for name in self._workers if name != asked.worker)
        wanted = target.get(asked.worker, 0.0)
        worker.granted_bytes_per_s = granted = min(wanted, max(free, 0.0))
        held = inf if asked.held_bytes_per_s is None else asked.held_bytes_per_s
        unfinished = granted < _ENOUGH * wanted or granted < _ENOUGH * held
        ask_again_s = BUSY_S if asked.transfers else IDLE_S
        return EgressLease(
            bytes_per_s=granted,
            alone_bytes_per_s=self._alone(),
            share=share,
            ask_again_s=HURRY_S if unfinished else ask_again_s,
            goodput_bytes_per_s=self._capacity if goodput_bytes_per_s is None else min(goodput_bytes_per_s, self._capacity),
            rtt_s=rtt_s,
        )

    @property
    def workers(self) -> int:
        """Number of workers that are remembered."""
        return len(self._workers)

    def knows(self, worker: str) -> bool:
        return worker in self._workers

    def lose(self, retransmit_share: float, now_s: float) -> None:
        """Takes in the share of what leaves that TCP sends again, 0 to 1."""
        if self._whole is None or self._capacity is None:
            return
        capacity = (1 - min(retransmit_share, _MOST_LOSS)) * self._whole
        if capacity < self._capacity:
            self._lost_more_s = now_s
        self._capacity = capacity

    def busy(self, now_s: float) -> bool:
        """Returns whether a worker has transfers, or may have some because it is silent."""
        return any(worker.asked.transfers or now_s - worker.asked_s > LEASE_S for worker in self._workers.values())

    def leased_bytes_per_s(self, now_s: float) -> float:
        """Sum of the rates in the last answers."""
        return sum(worker.granted_bytes_per_s for worker in self._workers.values() if now_s - worker.asked_s <= LEASE_S)

    def validate(self, now_s: float) -> None:
        """Asserts that the last answers are within the budget. A rate that a worker brought along may exceed it, and ends."""
        if self._capacity is not None and now_s - self._lost_more_s > LEASE_S:
            assert self.leased_bytes_per_s(now_s) <= self._capacity * (1 + 1e-9)

    def _held(self, name: str, now_s: float) -> float:
        worker = self._workers[name]
        if now_s - worker.asked_s > LEASE_S:
            return self._alone()
        held = worker.asked.held_bytes_per_s
        return max(worker.granted_bytes_per_s, inf if held is None else held)

    def _alone(self) -> float:
        assert self._capacity is not None
        return self._capacity / len(self._workers)

    def _share(self, target: dict[str, float], name: str) -> float:
        """Share of the window, as the rates are shared. A worker without transfers counts as one more."""
        whole = sum(target.values())
        return target[name] / whole if target.get(name) and whole > 0 else 1 / (len(target) + 1)

    def _targets(self, now_s: float, goodput_bytes_per_s: float | None) -> dict[str, float]:
        """Rates that the workers with transfers should have in the end."""
        active = {
            name: worker.asked
            for name, worker in self._workers.items()
            if worker.asked.transfers and now_s - worker.asked_s <= LEASE_S
        }
        whole = self._capacity
        if whole is None:
            whole = goodput_bytes_per_s or 1.0
        else:
            whole -= self._alone() * sum(now_s - worker.asked_s > LEASE_S for worker in self._workers.values())
        weights = sum(asked.transfers for asked in active.values())
        wanted = {
            name: max(asked.wanted_bytes_per_s, _FLOOR * whole * asked.transfers / weights) for name, asked in active.items()
        }
        return _max_min_fair(whole, wanted, {name: float(asked.transfers) for name, asked in active.items()})


def _max_min_fair(whole: float, wanted: dict[str, float], weights: dict[str, float]) -> dict[str, float]:
    """Max-min fair parts of `whole`. What is left over is dealt out by weight: it is there at once for a worker that needs it."""
    given: dict[str, float] = {}
    left, weight = whole, sum(weights.values())
    for name in sorted(wanted, key=lambda name: wanted[name] / weights[name]):
        given[name] = min(wanted[name], left * weights[name] / weight)
        left -= given[name]
        weight -= weights[name]
    spare = max(0.0, left) / sum(weights.values()) if weights else 0.0
    return {name: part + spare * weights[name] for name, part in given.items()}
