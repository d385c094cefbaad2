"""Fleets of any size in the proportions of the paper's case, 4 prfaas, 3 pd prefill and 5 decode instances, and their traffic."""

from collections import Counter
from typing import NamedTuple

from prfaas.capacity.builtin import builtin_profile
from prfaas.capacity.lengths import TruncatedLogNormal
from prfaas.capacity.observed import ObservedTimes
from prfaas.capacity.profiles import Profile
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat, LinkEstimate
from prfaas_scheduler.policies.base import Policy
from prfaas_scheduler.policies.registry import POLICIES, PolicyOptions

HOME = "home"
MODEL = "emulated-1t"
PRFAAS_SITES = 4
"""Most prfaas sites; fewer where there are fewer prfaas workers."""
LENGTHS = TruncatedLogNormal(mu=9.90, sigma=1.00, low_tokens=128, high_tokens=131_072)
THRESHOLD_TOKENS = 19_419
OUTPUT_TOKENS = 1024
STEP_S = 0.025
RATE_REQ_S_PER_WORKER = 0.7 * 3.24 / 12
"""Seven tenths of what the paper's twelve instances carry: small fleets miss its proportions, and none is to be overloaded."""
PRFAAS, PD = builtin_profile("paper-1t-h200-anchored"), builtin_profile("paper-1t-h20")
_SLOTS, _WAITING_LIMIT = 40, 64
_GOODPUT_BYTES_PER_S = 100e9 / 8 / 4
"""Goodput per prfaas worker: four of them share 100 Gbit/s."""


def make_policy(name: str) -> Policy:
    return POLICIES[name](PolicyOptions(threshold_tokens=THRESHOLD_TOKENS))


class Fleet(NamedTuple):
    beats: list[Heartbeat]
    """One heartbeat of each worker, without any load."""
    links: list[LinkEstimate]


def make_fleet(workers: int) -> Fleet:
    n_prfaas, n_prefill = round(workers * 4 / 12), round(workers * 3 / 12)
    sites = [f"far{index}" for index in range(min(PRFAAS_SITES, n_prfaas))]
    beats = [_prefill(sites[index % len(sites)], index, PRFAAS) for index in range(n_prfaas)]
    beats += [_prefill(HOME, index, PD) for index in range(n_prefill)]
    beats += [
        Heartbeat(
            site=HOME,
            worker=f"d{index}",
            role=Role.DECODE,
            model=MODEL,
            fingerprint="f",
            max_context_tokens=1 << 18,
            slots=_SLOTS,
            waiting_limit=_WAITING_LIMIT,
        )
        for index in range(workers - n_prfaas - n_prefill)
    ]
    workers_of = Counter(beat.site for beat in beats)
    links = [
        LinkEstimate(
            source=site,
            destination=HOME,
            rtt_s=0.02,
            goodput_bytes_per_s=_GOODPUT_BYTES_PER_S * workers_of[site],
            samples=9,
        )
        for site in sites
    ]
    return Fleet(beats, links)


def _prefill(site: str, index: int, profile: Profile) -> Heartbeat:
    """Heartbeat of a worker that has seen prompts of all lengths: about twenty points."""
    seen = ObservedTimes()
    for half_octave in range(14, 35):
        tokens = round(2 ** (half_octave / 2))
        seen.observe(tokens, profile.prefill_s(tokens))
    return Heartbeat(
        site=site,
        worker=f"p{index}",
        role=Role.PREFILL,
        model=MODEL,
        fingerprint="f",
        max_context_tokens=1 << 18,
        prefill_points=seen.points(),
        kv_points=tuple((float(point.tokens), point.kv_bytes) for point in PRFAAS.prefill),
        pulls=True,
    )
