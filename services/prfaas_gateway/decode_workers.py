"""The decode workers of the own site, as their heartbeats show them, and those that are lost.

A worker is one process: a name and an incarnation. Under the same name another incarnation is another worker, which has none of
the requests of the one before.
"""

from collections.abc import Sequence
from math import inf
from typing import Final, NamedTuple

from prfaas.bus.presence import INTERVAL_S, TTL_S
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat

SUPERSEDED_AFTER_S: Final = 2 * INTERVAL_S
"""Silence after which an incarnation is lost when its name has another one. Two processes under one name lose nothing by it, as
long as both beat."""

FRESH_S: Final = 2 * INTERVAL_S
"""Age up to which a heartbeat shows that its worker is there at this moment."""


class DecodeWorker(NamedTuple):
    """One process."""

    name: str
    incarnation: str


class DecodeWorkers:
    """Pure: heartbeats and silences in, what is there and what is lost out. Moments are of any one clock, in s."""

    def __init__(self, site: str, grace_s: float) -> None:
        self._site = site
        self._grace_s = grace_s
        self._beats: dict[str, Heartbeat] = {}
        """Latest heartbeat by name."""
        self._heard_at: dict[DecodeWorker, float] = {}
        """Latest sign of life of each that is not lost."""
        self._lost_at: dict[DecodeWorker, float] = {}
        """Moment at which a silent one counts as lost, if it stays silent."""
        self._gone: set[DecodeWorker] = set()
        """Those that are lost by other signs than silence."""
        self._any_heard_at = -inf
        """Moment of the latest heartbeat of any worker, which shows that the site's server stands not still."""

    def handle_beat(self, key: str, beat: Heartbeat | None, now_s: float) -> None:
        """Takes a heartbeat, or None for a name without one any more."""
        if beat is not None:
            self._any_heard_at = now_s
        site, _, name = key.partition(f".{Role.DECODE}.")
        if site != self._site or not name:
            return
        if beat is None:
            self._beats.pop(name, None)
            for worker in self._named(name):
                self._lose_at(worker, now_s + self._grace_s)
            return
        self._beats[name] = beat
        worker = DecodeWorker(name, beat.incarnation)
        self._heard_at[worker] = now_s
        self._lost_at.pop(worker, None)
        self._gone.discard(worker)
        for other in self._named(name):
            if other != worker:
                self._lose_at(other, max(now_s, self._heard_at[other] + SUPERSEDED_AFTER_S))

    def handle_acceptance(self, worker: DecodeWorker, now_s: float) -> None:
        """Takes an accepted request for a sign of life. One that never beats is lost as one whose heartbeat has stopped."""
        if worker not in self._heard_at or worker in self._lost_at:
            self._lost_at[worker] = now_s + TTL_S + self._grace_s
            self._gone.discard(worker)
        self._heard_at[worker] = now_s

    def lose(self, worker: DecodeWorker, now_s: float) -> None:
        """Takes that the worker is gone, however lately it beat."""
        if worker in self._heard_at:
            self._lost_at[worker] = now_s
            self._gone.add(worker)

    def has_other(self, worker: str, now_s: float) -> bool:
        """Returns whether a worker of another name takes requests for the model of this one, as heartbeats of the last moments
        tell. While the site's server stands still none does."""
        own = self._beats.get(worker)
        return any(
            (own is None or beat.model == own.model) and now_s - self._heard_at[DecodeWorker(name, beat.incarnation)] <= FRESH_S
            for name, beat in self._beats.items()
            if name != worker and not beat.draining
        )

    def take_lost(self, now_s: float) -> list[DecodeWorker]:
        """Returns and forgets those that are lost by now.

        While no worker at all is heard of, the site's server stands still, or this process did: that loses none."""
        lost = [worker for worker, lost_at in self._lost_at.items() if lost_at <= now_s]
        if now_s - self._any_heard_at > FRESH_S:
            for worker in set(lost) - self._gone:
                self._lost_at[worker] = now_s + FRESH_S
                lost.remove(worker)
        for worker in lost:
            del self._lost_at[worker], self._heard_at[worker]
            self._gone.discard(worker)
            beat = self._beats.get(worker.name)
            if beat is not None and beat.incarnation == worker.incarnation:
                del self._beats[worker.name]  # it was lost by other signs, and may beat again
        return lost

    def next_lost_at(self) -> float | None:
        """Earliest moment at which one is lost if nothing is heard; None while none is silent."""
        return min(self._lost_at.values(), default=None)

    def unserved(self, models: Sequence[str]) -> list[str]:
        """Returns the models without a live worker that takes requests."""
        served = {beat.model for beat in self._beats.values() if not beat.draining}
        return [model for model in models if model not in served]

    def validate(self) -> None:
        assert self._gone <= self._lost_at.keys() <= self._heard_at.keys()
        assert all(DecodeWorker(name, beat.incarnation) in self._heard_at for name, beat in self._beats.items())

    def _named(self, name: str) -> list[DecodeWorker]:
        return [worker for worker in self._heard_at if worker.name == name]

    def _lose_at(self, worker: DecodeWorker, lost_at: float) -> None:
        """Sets the moment, unless an earlier one is set."""
        self._lost_at[worker] = min(lost_at, self._lost_at.get(worker, lost_at))
