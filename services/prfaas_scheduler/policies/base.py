"""Where to prefill one prompt. A policy sees the candidate sites and answers with one of them and a sentence that says why.

`prefill_tokens` is the whole prompt but its last token; each site knows what it would not have to compute of it."""

from typing import NamedTuple, Protocol

from prfaas.contracts.terms import Outcome
from prfaas_scheduler.candidates import PrefillSite


class Choice(NamedTuple):
    site: PrefillSite
    outcome: Outcome
    reason: str
    deferred: bool = False
    """Too late already: it waits until the site has no other prompt, for a while."""


class Candidates(NamedTuple):
    """`local` is None while the pd site has no live prefill worker; there is at least one candidate in all."""

    local: PrefillSite | None
    remotes: list[PrefillSite]

    def best_remote(self, prefill_tokens: int) -> PrefillSite | None:
        """The remote site with the shortest wait behind own placements, less what its cache saves, then with the fewest of them
        per worker; among equals, the first by name. By the announced queues, schedulers that share these sites would all run to
        the same one."""

        def rank(site: PrefillSite) -> tuple[float, float, str]:
            return site.own_wait_s - site.saved_s(prefill_tokens), len(site.backlog) / site.workers, site.site

        return min(self.remotes, key=rank, default=None)


class Policy(Protocol):
    @property
    def name(self) -> str: ...

    def choose(self, prefill_tokens: int, candidates: Candidates) -> Choice: ...


class LocalOnly:
    """Homogeneous PD: everything stays in the pd site."""

    name = "local_only"

    def choose(self, prefill_tokens: int, candidates: Candidates) -> Choice:
        if candidates.local is None:
            return only_remote(prefill_tokens, candidates, "policy local_only wants the local site")
        return Choice(candidates.local, Outcome.LOCAL_POLICY, "policy local_only")


class RemoteAll:
    """Naive heterogeneous PD: every prompt is prefilled remotely while there is a remote site."""

    name = "remote_all"

    def choose(self, prefill_tokens: int, candidates: Candidates) -> Choice:
        remote = candidates.best_remote(prefill_tokens)
        if remote is not None:
            return Choice(remote, Outcome.OFFLOADED, "policy remote_all")
        return no_remote(candidates, "policy remote_all")


class Threshold:
    """Selective offload by a fixed threshold t: uncached length above t goes remote, the rest stays (paper, section 3.3).

    While bandwidth is scarce, what the pd site has cached counts alone; while it is abundant, the longest cache of all does
    (paper, section 3.4.3). The paper then ships that cache to the pd site; here the prompt goes to where it is."""

    name = "threshold"

    def __init__(self, threshold_tokens: int) -> None:
        self.threshold_tokens = threshold_tokens
        self.bandwidth_scarce = True

    def choose(self, prefill_tokens: int, candidates: Candidates) -> Choice:
        t = self.threshold_tokens
        local, remote = candidates.local, candidates.best_remote(prefill_tokens)
        if local is None:
            return only_remote(prefill_tokens, candidates, f"{prefill_tokens} tokens, t = {t}")
        uncached_tokens = local.uncached_tokens(prefill_tokens)
        if not self.bandwidth_scarce and remote is not None:
            there_tokens = remote.uncached_tokens(prefill_tokens)
            if there_tokens < uncached_tokens and there_tokens <= t:
                reason = (
                    f"{there_tokens} uncached tokens at {remote.site}, {uncached_tokens} here, t = {t}, and the links carry more"
                )
                return Choice(remote, Outcome.OFFLOADED, reason)
        if uncached_tokens <= t:
            return Choice(local, Outcome.LOCAL_SHORT, f"{uncached_tokens} uncached tokens <= t = {t}")
        if remote is None:
            return no_remote(candidates, f"{uncached_tokens} uncached tokens > t = {t}")
        return Choice(remote, Outcome.OFFLOADED, f"{uncached_tokens} uncached tokens > t = {t}")


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


def only_remote(prefill_tokens: int, candidates: Candidates, why: str) -> Choice:
    remote = candidates.best_remote(prefill_tokens)
    assert remote is not None, "a policy is asked only when there is a candidate"
    return Choice(remote, Outcome.OFFLOADED, f"{why}, and the local site has no live prefill worker")


def no_remote(candidates: Candidates, why: str) -> Choice:
    assert candidates.local is not None, "a policy is asked only when there is a candidate"
    return Choice(candidates.local, Outcome.LOCAL_NO_REMOTE, f"{why}, but no remote site can be used now")
