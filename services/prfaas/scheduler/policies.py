"""Where to prefill one prompt. A policy sees the candidate sites and answers with one of them and a sentence that says why."""

from typing import NamedTuple, Protocol

from prfaas.contracts.to_scheduler import Outcome
from prfaas.scheduler.fleet import PrefillSite


class Choice(NamedTuple):
    site: str
    outcome: Outcome
    reason: str


class Candidates(NamedTuple):
    """`local` is None while the pd site has no live prefill worker; there is at least one candidate in all."""

    local: PrefillSite | None
    remotes: list[PrefillSite]

    @property
    def best_remote(self) -> PrefillSite | None:
        """The remote site with the fewest queued tokens per worker; among equals, the first by name."""
        return min(self.remotes, key=lambda site: (site.queued_tokens / len(site.workers), site.site), default=None)


class Policy(Protocol):
    @property
    def name(self) -> str: ...

    def choose(self, prefill_tokens: int, candidates: Candidates) -> Choice: ...


def _only_remote(candidates: Candidates, why: str) -> Choice:
    remote = candidates.best_remote
    assert remote is not None, "a policy is asked only when there is a candidate"
    return Choice(remote.site, Outcome.OFFLOADED, f"{why}, and the local site has no live prefill worker")


class LocalOnly:
    """Homogeneous PD: everything stays in the pd site."""

    name = "local_only"

    def choose(self, prefill_tokens: int, candidates: Candidates) -> Choice:
        if candidates.local is None:
            return _only_remote(candidates, "policy local_only wants the local site")
        return Choice(candidates.local.site, Outcome.LOCAL_POLICY, "policy local_only")


class RemoteAll:
    """Naive heterogeneous PD: every prompt is prefilled remotely while there is a remote site."""

    name = "remote_all"

    def choose(self, prefill_tokens: int, candidates: Candidates) -> Choice:
        remote = candidates.best_remote
        if remote is not None:
            return Choice(remote.site, Outcome.OFFLOADED, "policy remote_all")
        assert candidates.local is not None, "a policy is asked only when there is a candidate"
        return Choice(candidates.local.site, Outcome.LOCAL_NO_REMOTE, "no remote site has a live prefill worker")


class Threshold:
    """Selective offload by a fixed threshold t: uncached length above t goes remote, the rest stays (paper, section 3.3)."""

    name = "threshold"

    def __init__(self, threshold_tokens: int) -> None:
        self.threshold_tokens = threshold_tokens

    def choose(self, prefill_tokens: int, candidates: Candidates) -> Choice:
        t = self.threshold_tokens
        if candidates.local is None:
            return _only_remote(candidates, f"{prefill_tokens} uncached tokens, t = {t}")
        if prefill_tokens <= t:
            return Choice(candidates.local.site, Outcome.LOCAL_SHORT, f"{prefill_tokens} uncached tokens <= t = {t}")
        remote = candidates.best_remote
        if remote is None:
            reason = f"{prefill_tokens} uncached tokens > t = {t}, but no remote site has a live prefill worker"
            return Choice(candidates.local.site, Outcome.LOCAL_NO_REMOTE, reason)
        return Choice(remote.site, Outcome.OFFLOADED, f"{prefill_tokens} uncached tokens > t = {t}")
