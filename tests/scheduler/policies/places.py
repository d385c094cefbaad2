"""Candidate sites made by hand, as a policy sees them."""

from dataclasses import replace

from prfaas.contracts.to_scheduler import LinkEstimate
from prfaas_scheduler.backlog import Backlog
from prfaas_scheduler.candidates import Candidate, Holder, PrefillSite
from prfaas_scheduler.policies.base import Candidates, Choice, Policy
from prfaas_scheduler.prompt import Prompt

FAST = ((1000.0, 0.44), (32_000.0, 1.84), (128_000.0, 7.4))
SLOW = ((1000.0, 0.6), (32_000.0, 5.05), (128_000.0, 22.7))
KV = ((1000.0, 2e8), (128_000.0, 2.4e9))


def site(
    name: str, points: tuple[tuple[float, float], ...] = FAST, workers: int = 1, goodput_bytes_per_s: float | None = None
) -> Candidate:
    """A place for a prompt that `choose` sets."""
    link = None
    if goodput_bytes_per_s is not None:
        link = LinkEstimate(source=name, destination="home", rtt_s=0.02, goodput_bytes_per_s=goodput_bytes_per_s, samples=3)
    place = PrefillSite(
        name=name, workers=workers, prefill_points=points, kv_points=KV, queue_s=0.0, backlog=Backlog(), link=link, now_s=0.0
    )
    return Candidate(site=place, prompt=Prompt(1))


def busy(candidate: Candidate, work_s: float, kv_bytes: float = 0.0) -> Candidate:
    at = candidate.site
    for number in range(at.workers):
        at.backlog.add(f"{at.name}{number}", work_s, kv_bytes, at.workers, 0.0)
    return candidate


def caching(candidate: Candidate, cached_tokens: int, wait_s: float = 0.0) -> Candidate:
    return replace(candidate, holder=Holder("p0", cached_tokens, wait_s))


def choose(policy: Policy, prefill_tokens: int, local: Candidate | None, *remotes: Candidate, decode_tokens: int = 0) -> Choice:
    prompt = Prompt(prefill_tokens + 1, decode_tokens=decode_tokens)
    here = None if local is None else replace(local, prompt=prompt)
    return policy.choose(prompt, Candidates(here, [replace(remote, prompt=prompt) for remote in remotes]))
