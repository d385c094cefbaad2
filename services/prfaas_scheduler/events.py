"""Events that the scheduler's core handles, and instructions that it returns. `now_s` is the process's monotonic clock."""

from dataclasses import dataclass

from prfaas.contracts.terms import Role
from prfaas.contracts.to_gateway import Placement, Refusal
from prfaas.contracts.to_scheduler import AttemptEnded, BlocksChanged, BlocksHeld, Heartbeat, LinkEstimate, PlaceRequest
from prfaas_scheduler.queue.announced import QueueState


@dataclass(frozen=True, slots=True)
class HeartbeatReceived:
    now_s: float
    beat: Heartbeat


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """The worker's heartbeat was deleted or has expired."""

    now_s: float
    key: str
    """Heartbeat.key"""


@dataclass(frozen=True, slots=True)
class LinkMeasured:
    now_s: float
    estimate: LinkEstimate


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The link's estimate was deleted or has expired."""

    now_s: float
    key: str
    """LinkEstimate.key"""


@dataclass(frozen=True, slots=True)
class PlacementRequested:
    now_s: float
    request: PlaceRequest


@dataclass(frozen=True, slots=True)
class AttemptOver:
    now_s: float
    ended: AttemptEnded


@dataclass(frozen=True, slots=True)
class SiteDistrusted:
    """KV that the site made was found wrong."""

    now_s: float
    site: str


@dataclass(frozen=True, slots=True)
class CacheChanged:
    now_s: float
    changed: BlocksChanged


@dataclass(frozen=True, slots=True)
class CacheListed:
    """A worker's answer to RequestCacheList."""

    now_s: float
    key: str
    """Heartbeat.key"""
    held: BlocksHeld


@dataclass(frozen=True, slots=True)
class QueueSeen:
    """A site announces its queue."""

    now_s: float
    state: QueueState


Event = (
    HeartbeatReceived
    | WorkerGone
    | LinkMeasured
    | LinkLost
    | PlacementRequested
    | AttemptOver
    | SiteDistrusted
    | CacheChanged
    | CacheListed
    | QueueSeen
)


@dataclass(frozen=True, slots=True)
class Answer:
    """Reply to a PlaceRequest."""

    request_id: str
    answer: Placement | Refusal
    cached_tokens: int = 0
    """Prompt tokens cached at the worker that is to prefill it, as far as is known."""


@dataclass(frozen=True, slots=True)
class RequestCacheList:
    """Ask a worker for all that its cache holds. Without an answer the core asks again, more and more rarely."""

    site: str
    role: Role
    worker: str
    key: str
    """Heartbeat.key"""


Instruction = Answer | RequestCacheList
