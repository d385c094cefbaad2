"""Scenarios: sites and their machines, links, message delays, and the load."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from prfaas.capacity.profiles import Profile
from prfaas.replay.arrival import Arrival
from prfaas_scheduler.fleet import Fleet
from prfaas_scheduler.policies.base import Policy
from prfaas_scheduler.pull_sources import NO_PULLS, PullOptions
from prfaas_scheduler.queue.objectives import Objectives
from prfaas_scheduler.queue.options import QueueOptions
from prfaas_scheduler.roles.controller import RoleController

MODEL = "simulated"


class PrefillPool(msgspec.Struct, frozen=True, kw_only=True):
    """Prefill workers of one site behind the site's work queue."""

    profile: Profile
    workers: int
    cache_bytes: int = 0
    """Memory of each worker for its prefix cache, which KV and states share; 0: none."""
    queue: QueueOptions | None = None
    """Queue with due dates, bound late; None: first come first served."""
    noise: float = 0.0
    """Sigma of the log-normal factor on each prefill's time; 0: exactly the profile's."""
    slowness: tuple[float, ...] = ()
    """Factor on the times of the first workers; 1 for the others."""


class DecodePool(msgspec.Struct, frozen=True, kw_only=True):
    profile: Profile
    workers: int
    slots: int
    """Requests that a worker holds at once, those that wait for their KV included."""
    waiting: int = 64
    """Requests that may wait for a slot; more are refused."""
    cache_bytes: int = 0
    """Memory of each worker for its cache of served prompts, for which full layers need not be shipped again; 0: none."""
    batch_limited: bool = True
    """True: the batch is never larger than BS_max, and a request that has its KV waits for room in it."""


class LinkSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A directed link from a prfaas to a pd site."""

    rates: tuple[tuple[float, float], ...]
    """(from this second on, bytes/s) in rising order, from 0 on; 0 bytes/s is a cut."""
    rtt_s: float = 0.02


class PrfaasSite(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    prefill: PrefillPool
    links: Mapping[str, LinkSpec]
    """Links by pd site. Without a link a pd site does not know of this one."""


class MovableWorkers(msgspec.Struct, frozen=True, kw_only=True):
    """Long-term control of a pd site."""

    controller: Callable[[Fleet], RoleController]
    """Makes a fresh controller per run."""
    away_s: float = 30.0
    """Time between the end of a worker's drain and its first heartbeat in the other role."""


class PdSite(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    prefill: PrefillPool | None
    """None: all its machines decode."""
    decode: DecodePool
    policy: Callable[[], Policy]
    """Makes a fresh policy per run: policies may keep state."""
    tpot_objective_s: float = 0.0
    """Objective that its scheduler is told; 0: none."""
    arrivals: Sequence[Arrival]
    tenants: Sequence[str] = ()
    """Tenant of each arrival; empty: all are of one."""
    pulls: PullOptions = NO_PULLS
    """Pulls of cached prefixes that its scheduler places prompts with."""
    movable: MovableWorkers | None = None
    """None: every worker keeps its role."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Intervals and delays of messages."""

    heartbeat_s: float = 1.0
    """Interval between two beats of a worker."""
    queue_s: float = 0.25
    """Interval between two announcements of a site's queue."""
    link_estimate_s: float = 1.0
    """Interval between two estimates of a link."""
    control_s: float = 0.002
    """Delay of one control message within a site; between sites half an RTT comes on top."""
    ttft_deadline_s: float = 600.0
    objectives: Objectives = Objectives()
    """Objectives of TTFT, by which queues set due dates."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    pd: Sequence[PdSite]
    prfaas: Sequence[PrfaasSite] = ()
    timing: Timing = Timing()
    seed: int = 0
    """Seed of the workers' heartbeat phases."""
    token_scale: float = 1.0
    """Tokens of the profile that one token here stands for, as in the emulated engine."""
    time_scale: float = 1.0
    block_tokens: int = 512
    """Size of the blocks that arrivals name, in tokens of the profile."""
    link_bias: float = 1.0
    """Factor on what the schedulers are told of each link's goodput."""
    caches_announced: bool = True
    """False: workers have caches and do not announce them."""
