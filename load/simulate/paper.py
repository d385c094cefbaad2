"""The paper's case (arXiv 2604.15039, section 4): its three deployments, simulated and by its own equations.

Its equations put the mean length into T_prefill; requests bring the mean of T_prefill over their lengths. Where the curve bends
upward that is more, and so the capacity is less, before any queue.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from load.simulate.policies import make_policy, scheduler_keys
from load.simulate.scenario import DecodePool, LinkSpec, PdSite, PrefillPool, PrfaasSite, Scenario, Timing
from prfaas.capacity.builtin import builtin_profile
from prfaas.capacity.lengths import Lengths, TruncatedLogNormal, quantile_midpoints
from prfaas.capacity.profiles import Profile
from prfaas.replay.arrival import Arrival
from prfaas_scheduler.pull_sources import NO_PULLS, PullOptions
from prfaas_scheduler.queue.options import QueueOptions

HOME, FAR = "home", "far"
LENGTHS = TruncatedLogNormal(mu=9.90, sigma=1.00, low_tokens=128, high_tokens=131_072)
OUTPUT_TOKENS = 1024
THRESHOLD_TOKENS = 19_400
LINK_BYTES_PER_S = 100e9 / 8
STEADY = LinkSpec(rates=((0.0, LINK_BYTES_PER_S),))
H200_NAME, H20_NAME = "paper-1t-h200-anchored", "paper-1t-h20"
H200, H20 = builtin_profile(H200_NAME), builtin_profile(H20_NAME)
SLOTS = 64
"""Slots of a decode worker: the batch of 20, and requests that wait for their KV."""
BINS = 4096


class Deployment(NamedTuple):
    name: str
    """Name of the deployment and of its policy."""
    n_prfaas: int
    n_prefill: int
    n_decode: int
    offloads: Callable[[float], float]
    """The share of requests of this length that is offloaded."""
    paper_req_s: float
    """Table 6."""

    @property
    def keys(self) -> dict[str, Any]:
        """Keys of its scheduler, for tokens that are the paper's."""
        return scheduler_keys(self.name, THRESHOLD_TOKENS)

    @property
    def counts(self) -> str:
        return " + ".join(str(count) for count in (self.n_prfaas, self.n_prefill, self.n_decode) if count)


DEPLOYMENTS = {
    deployment.name: deployment
    for deployment in (
        Deployment("local_only", 0, 9, 3, lambda tokens: 0.0, 2.11),
        Deployment("remote_all", 4, 0, 8, lambda tokens: 1.0, 2.45),
        Deployment("threshold", 4, 3, 5, lambda tokens: float(tokens > THRESHOLD_TOKENS), 3.24),
    )
}


class Capacity(NamedTuple):
    """The total rate (req/s) at which each stage is full; infinite for a stage that sees nothing."""

    prfaas: float
    pd_prefill: float
    decode: float

    @property
    def req_s(self) -> float:
        return min(self)


def mean_work_capacity(deployment: Deployment, lengths: Lengths = LENGTHS) -> Capacity:
    """Capacity with E[T(L)] in place of the paper's T(E[L])."""
    points = quantile_midpoints(lengths, BINS)
    remote_s = sum(H200.prefill_s(tokens) * deployment.offloads(tokens) for tokens in points) / BINS
    local_s = sum(H20.prefill_s(tokens) * (1 - deployment.offloads(tokens)) for tokens in points) / BINS
    return _capacity(deployment, remote_s, local_s)


def mean_length_capacity(deployment: Deployment, lengths: Lengths = LENGTHS) -> Capacity:
    """Equations 3 to 6 as the paper has them."""
    points = quantile_midpoints(lengths, BINS)
    shares = [deployment.offloads(tokens) for tokens in points]
    remote_s = _at_mean(H200, points, shares)
    local_s = _at_mean(H20, points, [1 - share for share in shares])
    return _capacity(deployment, remote_s, local_s)


def _at_mean(profile: Profile, points: Sequence[float], shares: Sequence[float]) -> float:
    total = sum(shares)
    mean = sum(tokens * share for tokens, share in zip(points, shares, strict=True)) / total if total else 0.0
    return profile.prefill_s(mean) * total / len(points)


def _capacity(deployment: Deployment, remote_s: float, local_s: float) -> Capacity:
    """Capacity by the seconds of prefill that an average request brings to each site."""
    batch = H20.batch_max()
    return Capacity(
        prfaas=deployment.n_prfaas / remote_s if remote_s else float("inf"),
        pd_prefill=deployment.n_prefill / local_s if local_s else float("inf"),
        decode=deployment.n_decode * batch / (H20.step_s(batch) * OUTPUT_TOKENS),
    )


def scenario(
    deployment: Deployment,
    arrivals: Sequence[Arrival],
    *,
    keys: dict[str, Any] | None = None,
    link: LinkSpec = STEADY,
    timing: Timing | None = None,
    token_scale: float = 1.0,
    time_scale: float = 1.0,
    cache_bytes: int = 0,
    block_tokens: int = 512,
    caches_announced: bool = True,
    queue: QueueOptions | None = None,
    batch_limited: bool = True,
    tpot_objective_s: float = 0.0,
    noise: float = 0.0,
    slowness: tuple[float, ...] = (),
    link_bias: float = 1.0,
    pulls: PullOptions = NO_PULLS,
    tenants: Sequence[str] = (),
) -> Scenario:
    """`keys`: of the scheduler, instead of the deployment's own. Keys, arrivals, link and timing come scaled already.
    `cache_bytes`: of each worker, in blocks of `block_tokens` of the profile."""
    used = keys or deployment.keys

    def prefill(profile: Profile, workers: int) -> PrefillPool:
        return PrefillPool(profile=profile, workers=workers, cache_bytes=cache_bytes, queue=queue, noise=noise, slowness=slowness)

    home = PdSite(
        name=HOME,
        prefill=prefill(H20, deployment.n_prefill) if deployment.n_prefill else None,
        decode=DecodePool(
            profile=H20,
            workers=deployment.n_decode,
            slots=SLOTS,
            waiting=10_000,
            cache_bytes=cache_bytes,
            batch_limited=batch_limited,
        ),
        policy=lambda: make_policy(used),
        tpot_objective_s=tpot_objective_s,
        pulls=pulls,
        arrivals=arrivals,
        tenants=tenants,
    )
    far = PrfaasSite(name=FAR, prefill=prefill(H200, deployment.n_prfaas), links={HOME: link})
    return Scenario(
        pd=[home],
        prfaas=[far] if deployment.n_prfaas else [],
        timing=timing or Timing(),
        token_scale=token_scale,
        time_scale=time_scale,
        block_tokens=block_tokens,
        caches_announced=caches_announced,
        link_bias=link_bias,
    )
