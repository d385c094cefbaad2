"""Leaderships of a world's schedulers, and what is wrong with them."""

from typing import Protocol

from load.worlds.clockwork import Clockwork
from load.worlds.control_bus import LeaseBucket
from load.worlds.plan import HOME, Plan
from prfaas_scheduler.leadership.leadership import ANSWER_TIMEOUT_S, LOOK_EVERY_S, Leadership
from prfaas_scheduler.leadership.leadership_core import LEASE_S, RENEW_EVERY_S

MOST_LEADERLESS_S = LEASE_S + RENEW_EVERY_S + 2 * LOOK_EVERY_S + 2 * ANSWER_TIMEOUT_S
"""Longest time from the last sign of a leader to its successor, where one stands by and only one thing has gone wrong."""


class Leader(Protocol):
    name: str
    alive: bool
    leadership: Leadership


class Reigns:
    def __init__(self, plan: Plan, clockwork: Clockwork, bucket: LeaseBucket, violations: list[str]) -> None:
        self.leaders: dict[str, Leader] = {}
        """The process of each scheduler that has begun to lead last, stopped ones included."""
        self._plan = plan
        self._clockwork = clockwork
        self._bucket = bucket
        self._violations = violations
        self._term = 0
        self._losses = 0
        self._last_sign_s: float | None = None

    def begins(self, leader: Leader) -> None:
        if self._losses != self._bucket.losses:  # terms begin anew where no process remembers them
            self._losses, self._term = self._bucket.losses, 0
        term = leader.leadership.term
        if term <= self._term:
            self._violations.append(f"{leader.name} leads in term {term}, after term {self._term}")
        self._term = max(self._term, term)
        self.leaders[leader.name] = leader
        self.check(leader)
        now_s = self._clockwork.now_s
        leaderless_s = 0.0 if self._last_sign_s is None else now_s - self._last_sign_s
        if leaderless_s > MOST_LEADERLESS_S and self._one_stands_by():
            self._violations.append(f"no scheduler led for {leaderless_s:.1f} s")
        self._last_sign_s = now_s

    def goes_on(self, leader: Leader) -> None:
        self._last_sign_s = self._clockwork.now_s
        self.check(leader)

    def check(self, leader: Leader) -> None:
        """Notes another one that would act as the leader at this moment."""
        for other in self.leaders.values():
            if other is not leader and other.alive and other.leadership.leads:
                self._violations.append(f"{other.name} and {leader.name} lead at once")

    def _one_stands_by(self) -> bool:
        """Returns whether one of several schedulers has nothing in its way."""
        faults = self._plan.faults
        by_server = any(fault.kind == "server_restart" and fault.target == HOME for fault in faults)
        return len(self._plan.schedulers) > 1 and self._plan.profile != "storm" and not by_server
