"""The interface of a policy: what it sees and what it answers. A policy picks one of the candidate sites and says why in a
sentence."""

from typing import NamedTuple, Protocol

from prfaas.contracts.terms import Outcome
from prfaas_scheduler.candidates import Candidate
from prfaas_scheduler.prompt import Prompt


class Choice(NamedTuple):
    candidate: Candidate
    outcome: Outcome
    reason: str
    shed_for_s: float | None = None
    """The prompt is refused, and may be tried again after this time; None: it is not."""


class Candidates(NamedTuple):
    """Places for one prompt; at least one."""

    local: Candidate | None
    """The pd site; None while it has no live prefill worker."""
    remotes: list[Candidate]

    def best_remote(self) -> Candidate | None:
        """The remote site with the shortest wait behind own placements, less what its cache saves; then with the fewest of them
        per worker; then the first by name. By announced queues, schedulers that share these sites would all run to the same
        one."""
        return min(self.remotes, key=_rank, default=None)

    def only_remote(self, why: str) -> Choice:
        """The choice while the local site cannot prefill."""
        remote = self.best_remote()
        assert remote is not None, "a policy is asked only when there is a candidate"
        return Choice(remote, Outcome.OFFLOADED, f"{why}, and the local site has no live prefill worker")

    def no_remote(self, why: str) -> Choice:
        """The choice while no remote site can be used, though the policy wants one."""
        assert self.local is not None, "a policy is asked only when there is a candidate"
        return Choice(self.local, Outcome.LOCAL_NO_REMOTE, f"{why}, but no remote site can be used now")


def _rank(candidate: Candidate) -> tuple[float, float, str]:
    site = candidate.site
    return site.own_wait_s - candidate.saved_s, len(site.backlog) / site.workers, site.name


class Policy(Protocol):
    @property
    def name(self) -> str:
        """The policy's name in the configuration."""
        ...

    @property
    def fixed_threshold_tokens(self) -> float | None:
        """Uncached tokens above which every prompt is offloaded: infinite if none is, negative if all are; None if it varies."""
        ...

    def choose(self, prompt: Prompt, candidates: Candidates) -> Choice: ...
