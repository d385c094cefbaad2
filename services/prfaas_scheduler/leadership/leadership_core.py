"""Rules by which one of a site's schedulers leads, pure: events in, instructions out, no socket, clock or loop inside.

The leader renews a lease by compare-and-set. It leads for LEASE_S from the moment in which it sent the renewal that was stored,
by its own monotonic clock. Another one takes the lease over when it has seen the same revision for LEASE_S by its own clock. So
two never lead at once, and no two clocks are compared.

It need not wait so long when the holder has no connection to the server any more: a leader whose connection breaks leads no more
from that moment on, even if it is back at once.
"""

from typing import Final

from prfaas.contracts.to_scheduler import Lease
from prfaas_scheduler.leadership.events import (
    AskHolder,
    ConnectionLost,
    Due,
    Event,
    Follow,
    HolderGone,
    Instruction,
    Lead,
    LeaseOutrun,
    LeaseRead,
    LeaseStored,
    ReadLease,
    ReleaseAsked,
    StoreLease,
)

LEASE_S: Final = 1.5
"""Life of a lease. A leader that stands still for longer is replaced."""
RENEW_EVERY_S: Final = 0.4
"""Time between two renewals: two may be lost or late."""


class LeadershipCore:
    """One scheduler's part in it."""

    def __init__(self, holder: str, incarnation: str) -> None:
        self._holder = holder
        self._incarnation = incarnation
        self.term = 0
        """Highest term that is known."""
        self._leading = False
        self._until_at = 0.0
        """Moment until which this process may lead."""
        self._renew_at = 0.0
        self._lease: Lease | None = None
        self._revision = 0
        self._seen_at: float | None = None
        """Moment at which the present revision was first seen; None before the first look."""
        self._storing: tuple[Lease, float] | None = None
        """Lease that is being stored, and when that was begun. None: what comes of it says nothing any more."""
        self._leaving = False

    def leads(self, now_s: float) -> bool:
        """Returns whether this process may act as the leader at this moment."""
        return self._leading and now_s < self._until_at

    @property
    def leading(self) -> bool:
        """True when the last instruction was Lead, not Follow."""
        return self._leading

    @property
    def lease(self) -> Lease | None:
        """Lease that was last seen."""
        return self._lease

    def handle(self, event: Event) -> list[Instruction]:
        match event:
            case Due(now_s):
                return self._due(now_s)
            case LeaseRead(now_s, lease, revision):
                return self._read(lease, revision, now_s)
            case LeaseStored(now_s, revision):
                return self._stored(revision, now_s)
            case LeaseOutrun():
                self._storing = None
                return [ReadLease()]
            case HolderGone(now_s, incarnation):
                held = self._lease is not None and self._lease.incarnation == incarnation
                return self._claim(now_s) if held and not self._leading and not self._leaving else []
            case ConnectionLost():
                self._storing = None  # stored or not, it was sent before the break
                self._seen_at = None  # the server that comes back may have another bucket
                return self._follow("the connection to the site's server broke")
            case ReleaseAsked(now_s):
                return self._release(now_s)

    def validate(self) -> None:
        assert self._storing is None or self._storing[0].incarnation == self._incarnation
        assert not self._leading or (self._lease is not None and self._lease.incarnation == self._incarnation)
        assert self._lease is None or self._lease.term <= self.term

    def _due(self, now_s: float) -> list[Instruction]:
        if self._leading and now_s >= self._until_at:
            return [*self._follow("the lease was not renewed in time"), ReadLease()]
        if not self._leading:
            return [ReadLease()]
        return self._store(self.term, now_s) if now_s >= self._renew_at else []

    def _read(self, lease: Lease | None, revision: int, now_s: float) -> list[Instruction]:
        # A bucket that was lost and made again counts its revisions from 1: an equal one may be another leader's.
        if self._seen_at is None or (revision, lease) != (self._revision, self._lease):
            self._revision, self._seen_at = revision, now_s
        self._lease = lease
        self.term = max(self.term, lease.term if lease else 0)
        own = lease is not None and lease.incarnation == self._incarnation
        if self._leading:
            # A renewal whose answer was lost left this entry; any other one is a successor's.
            if own and lease is not None and not lease.released:
                return self._store(self.term, now_s)
            return self._follow("another scheduler has taken the lease")
        if self._leaving:
            return []
        if lease is None or lease.released or own or now_s - self._seen_at >= LEASE_S:
            return self._claim(now_s)
        return [AskHolder(lease.incarnation)]

    def _stored(self, revision: int, now_s: float) -> list[Instruction]:
        if self._storing is None:
            return []
        lease, begun_at = self._storing
        self._storing = None
        self._lease, self._revision, self._seen_at, self.term = lease, revision, now_s, max(self.term, lease.term)
        if lease.released or self._leaving:
            return []
        self._until_at, self._renew_at = begun_at + LEASE_S, begun_at + RENEW_EVERY_S
        if now_s >= self._until_at:
            return self._follow("the lease was stored too late")
        if self._leading:
            return []
        self._leading = True
        return [Lead(lease.term)]

    def _claim(self, now_s: float) -> list[Instruction]:
        return self._store(self.term + 1, now_s)

    def _store(self, term: int, now_s: float, *, released: bool = False) -> list[Instruction]:
        lease = Lease(holder=self._holder, incarnation=self._incarnation, term=term, released=released)
        self._storing = lease, now_s
        return [StoreLease(lease, self._revision)]

    def _release(self, now_s: float) -> list[Instruction]:
        self._leaving = True
        if not self._leading:
            return []
        return [*self._follow("this scheduler leaves"), *self._store(self.term, now_s, released=True)]

    def _follow(self, reason: str) -> list[Instruction]:
        if not self._leading:
            return []
        self._leading, self._until_at = False, 0.0
        return [Follow(reason)]
