"""Events and instructions of the prefill worker's core."""

from dataclasses import dataclass

from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_prefill import CancelPrefill, PrefillJob


@dataclass(frozen=True, slots=True)
class JobTaken:
    job: PrefillJob
    age_s: float
    """Time since the queue stored it, by the site's own clock."""
    deliveries: int
    free_bytes: int | None = None
    """Memory that the worker may take for its prefill; None: not known."""


@dataclass(frozen=True, slots=True)
class CancelHeard:
    decode_site: str
    """Site that sends it. It ends jobs of that site only."""
    cancel: CancelPrefill


@dataclass(frozen=True, slots=True)
class PrefillEnded:
    tokens: int
    """Tokens computed, without those of a cached prefix."""
    prefill_s: float


Event = JobTaken | CancelHeard | PrefillEnded

# What the shell is told to do:


@dataclass(frozen=True, slots=True)
class Run:
    job: PrefillJob
    token_ids: list[int]
    timeout_s: float
    """Rest of the job's time."""
    tenant: str = ""
    cache_scope: str = ""
    kv_secret: bytes | None = None
    """Secret to seal the KV's frames with; None: they go in clear."""


@dataclass(frozen=True, slots=True)
class Refuse:
    job: PrefillJob
    code: FailureCode
    message: str
    silent: bool = False
    """The decode worker that asked does not want to hear of it any more."""


Instruction = Run | Refuse
