"""Events that the core of the leadership handles, and instructions that it returns. `now_s` is the process's monotonic clock."""

from dataclasses import dataclass

from prfaas.contracts.to_scheduler import Lease


@dataclass(frozen=True, slots=True)
class Due:
    """Time has passed."""

    now_s: float


@dataclass(frozen=True, slots=True)
class LeaseRead:
    """The lease as the bucket holds it."""

    now_s: float
    lease: Lease | None
    """None in an empty bucket."""
    revision: int
    """Revision of the entry; 0 in an empty bucket."""


@dataclass(frozen=True, slots=True)
class LeaseStored:
    """The bucket has stored the lease of the last StoreLease."""

    now_s: float
    revision: int


@dataclass(frozen=True, slots=True)
class LeaseOutrun:
    """The bucket holds another revision than the last StoreLease expected."""

    now_s: float


@dataclass(frozen=True, slots=True)
class HolderGone:
    """The process that holds the lease has no connection to the site's server."""

    now_s: float
    incarnation: str


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """This process's connection to the site's server broke, perhaps for a moment only."""

    now_s: float


@dataclass(frozen=True, slots=True)
class ReleaseAsked:
    """The process is about to leave."""

    now_s: float


Event = Due | LeaseRead | LeaseStored | LeaseOutrun | HolderGone | ConnectionLost | ReleaseAsked


@dataclass(frozen=True, slots=True)
class ReadLease:
    """Read the entry: LeaseRead follows, or nothing."""


@dataclass(frozen=True, slots=True)
class StoreLease:
    """Store the lease in place of exactly this revision: LeaseStored or LeaseOutrun follows, or nothing."""

    lease: Lease
    revision: int


@dataclass(frozen=True, slots=True)
class AskHolder:
    """Ask the holder whether it is there: HolderGone follows, or nothing."""

    incarnation: str


@dataclass(frozen=True, slots=True)
class Lead:
    """Begin to lead, in this term."""

    term: int


@dataclass(frozen=True, slots=True)
class Follow:
    """Lead no more."""

    reason: str


Instruction = ReadLease | StoreLease | AskHolder | Lead | Follow
