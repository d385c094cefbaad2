"""What is simulated: sites and their machines, links, how news travels, and the load."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from load.client import Arrival
from prfaas.capacity.profiles import Profile
from prfaas_scheduler.fleet import Fleet
from prfaas_scheduler.policies.base import Policy
from prfaas_scheduler.roles.controller import RoleController

MODEL = "simulated"


class PrefillPool(msgspec.Struct, frozen=True, kw_only=True):
    """Prefill workers of one site behind the site's work queue."""

    profile: Profile
    workers: int
    cache_blocks: int = 0
    """Of each worker's prefix cache."""


class DecodePool(msgspec.Struct, frozen=True, kw_only=True):
    profile: Profile
    workers: int
    slots: int
    """Requests that a worker holds at once, those that wait for their KV included."""
    waiting: int = 64
    """Requests that may wait for a slot; more are refused."""
    cache_blocks: int = 0
    """Of each worker's cache of served prompts: full layers need not be shipped again for those."""


class LinkSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A directed link from a prfaas to a pd site."""

    rates: tuple[tuple[float, float], ...]
    """(from this second on, bytes/s) in rising order, from 0 on; 0 bytes/s is a cut."""
    rtt_s: float = 0.02


class PrfaasSite(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    prefill: PrefillPool
    links: Mapping[str, LinkSpec]
    """By pd site. Without a link nothing is heard of this site there."""


class MovableWorkers(msgspec.Struct, frozen=True, kw_only=True):
    """Long-term control of a pd site."""

    controller: Callable[[Fleet], RoleController]
    """A fresh one per run."""
    away_s: float = 30.0
    """From the end of a worker's drain until it is there in its other role."""


class PdSite(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    prefill: PrefillPool | None
    """None: all its machines decode."""
    decode: DecodePool
    policy: Callable[[], Policy]
    """A fresh one per run: policies may keep state."""
    arrivals: Sequence[Arrival]
    movable: MovableWorkers | None = None
    """None: every worker keeps its role."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How news travels, in seconds."""

    heartbeat_s: float = 1.0
    """Between two beats of a worker."""
    link_estimate_s: float = 1.0
    """Between two estimates of a link."""
    control_s: float = 0.002
    """One control message within a site; between sites half an RTT comes on top."""
    ttft_deadline_s: float = 600.0


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    pd: Sequence[PdSite]
    prfaas: Sequence[PrfaasSite] = ()
    timing: Timing = Timing()
    seed: int = 0
    """Of the workers' heartbeat phases."""
    token_scale: float = 1.0
    """As the emulated engine's: tokens of the profile that one token here stands for."""
    time_scale: float = 1.0
    block_tokens: int = 512
    """Of the blocks that arrivals name, in tokens of the profile."""
    caches_announced: bool = True
    """False: workers have caches, but schedulers hear nothing of them."""
