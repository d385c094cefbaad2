"""Where to prefill one prompt. A policy sees the candidate sites and answers with one of them and a sentence that says why."""

from typing import NamedTuple, Protocol

from prfaas.contracts.to_scheduler import Outcome
from prfaas.scheduler.prefill_site import PrefillSite


class Choice(NamedTuple):
    site: PrefillSite
    outcome: Outcome
    reason: str


class Candidates(NamedTuple):
    """`local` is None while the pd site has no live prefill worker; there is at least one candidate in all."""

    local: PrefillSite | None
    remotes: list[PrefillSite]

    @property
    def best_remote(self) -> PrefillSite | None:
        """The remote site with the shortest wait behind own placements, then with the fewest of them per worker; among equals,
        the first by name. By the announced queues, schedulers that share these sites would all run to the same one."""
        return min(self.remotes, key=lambda site: (site.own_wait_s, len(site.backlog) / site.workers, site.site), default=None)


class Policy(Protocol):
    @property
    def name(self) -> str: ...

    def choose(self, prefill_tokens: int, candidates: Candidates) -> Choice: ...


class LocalOnly:
    """Homogeneous PD: everything stays in the pd site."""

    name = "local_only"

    def choose(self, prefill_tokens: int, candidates: Candidates) -> Choice:
        if candidates.local is None:
            return only_remote(candidates, "policy local_only wants the local site")
        return Choice(candidates.local, Outcome.LOCAL_POLICY, "policy local_only")


class RemoteAll:
    """Naive heterogeneous PD: every prompt is prefilled remotely while there is a remote site."""

    name = "remote_all"

    def choose(self, prefill_tokens: int, candidates: Candidates) -> Choice:
        remote = candidates.best_remote
        if remote is not None:
            return Choice(remote, Outcome.OFFLOADED, "policy remote_all")
        return no_remote(candidates, "policy remote_all")


class Threshold:
    """Selective offload by a fixed threshold t: uncached length above t goes remote, the rest stays (paper, section 3.3)."""

    name = "threshold"

    def __init__(self, threshold_tokens: int) -> None:
        self.threshold_tokens = threshold_tokens

    def choose(self, prefill_tokens: int, candidates: Candidates) -> Choice:
        t = self.threshold_tokens
        if candidates.local is None:
            return only_remote(candidates, f"{prefill_tokens} uncached tokens, t = {t}")
        if prefill_tokens <= t:
            return Choice(candidates.local, Outcome.LOCAL_SHORT, f"{prefill_tokens} uncached tokens <= t = {t}")
        remote = candidates.best_remote
        if remote is None:
            return no_remote(candidates, f"{prefill_tokens} uncached tokens > t = {t}")
        return Choice(remote, Outcome.OFFLOADED, f"{prefill_tokens} uncached tokens > t = {t}")


class Balanced:
    """Length-blind: prompts are dealt to the sites in proportion to what their prefill workers can do (not in the paper).

    Smooth weighted round robin: every site earns its share of each prompt, the richest one pays for it and takes it."""

    name = "balanced"

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}
        self._mean_tokens = 0.0
        self._seen = 0

    def choose(self, prefill_tokens: int, candidates: Candidates) -> Choice:
        self._seen += 1
        self._mean_tokens += (prefill_tokens - self._mean_tokens) / min(self._seen, 256)
        sites = ([candidates.local] if candidates.local else []) + candidates.remotes
        work_s = [site.work_s(self._mean_tokens) for site in sites]
        # A site of unknown speed counts as fast as one whose prompts take a second.
        rates = [site.workers / (seconds or 1.0) for site, seconds in zip(sites, work_s, strict=True)]
        for site, rate in zip(sites, rates, strict=True):
            self._credit[site.site] = self._credit.get(site.site, 0.0) + rate / sum(rates)
        chosen = max(sites, key=lambda site: self._credit[site.site])
        self._credit[chosen.site] -= 1.0
        shares = ", ".join(f"{site.site} {rate / sum(rates):.0%}" for site, rate in zip(sites, rates, strict=True))
        outcome = Outcome.LOCAL_POLICY if chosen is candidates.local else Outcome.OFFLOADED
        return Choice(chosen, outcome, f"policy balanced, shares {shares}")


def only_remote(candidates: Candidates, why: str) -> Choice:
    remote = candidates.best_remote
    assert remote is not None, "a policy is asked only when there is a candidate"
    return Choice(remote, Outcome.OFFLOADED, f"{why}, and the local site has no live prefill worker")


def no_remote(candidates: Candidates, why: str) -> Choice:
    assert candidates.local is not None, "a policy is asked only when there is a candidate"
    return Choice(candidates.local, Outcome.LOCAL_NO_REMOTE, f"{why}, but no remote site can be used now")
