"""Policy `threshold`: selective offload by a fixed threshold t (paper, sections 3.3 and 3.4.3)."""

from prfaas.contracts.terms import Outcome
from prfaas_scheduler.candidates import Candidate
from prfaas_scheduler.policies.base import Candidates, Choice
from prfaas_scheduler.prompt import Prompt


class Threshold:
    """Prompts with more than t uncached tokens go to a remote site, the others stay.

    While bandwidth is scarce, what the pd site has cached counts alone; while it is abundant, the longest cache of all does. What
    may be pulled (`pulls-from`), as in the paper, then counts as the pd site's own; else the prompt goes to where it is.
    """

    name = "threshold"

    def __init__(self, threshold_tokens: int) -> None:
        self.threshold_tokens = threshold_tokens
        self.bandwidth_scarce = True

    @property
    def fixed_threshold_tokens(self) -> float | None:
        return self.threshold_tokens

    def choose(self, prompt: Prompt, candidates: Candidates) -> Choice:
        t = self.threshold_tokens
        local, remote = self._home(candidates), candidates.best_remote()
        if local is None:
            return candidates.only_remote(f"{prompt.prefill_tokens} tokens, t = {t}")
        uncached_tokens = local.uncached_tokens
        # Abundant bandwidth: a longer cache elsewhere attracts even a prompt that would stay.
        if not self.bandwidth_scarce and remote is not None and self._attracts(remote, uncached_tokens):
            there_tokens = remote.uncached_tokens
            reason = f"{there_tokens} uncached tokens at {remote.name}, {uncached_tokens} here, t = {t}, and the links carry more"
            return Choice(remote, Outcome.OFFLOADED, reason)
        # Otherwise the local cache alone decides.
        if uncached_tokens <= t:
            return Choice(local, Outcome.LOCAL_SHORT, f"{uncached_tokens} uncached tokens <= t = {t}")
        if remote is None:
            return candidates.no_remote(f"{uncached_tokens} uncached tokens > t = {t}")
        return Choice(remote, Outcome.OFFLOADED, f"{uncached_tokens} uncached tokens > t = {t}")

    def _home(self, candidates: Candidates) -> Candidate | None:
        """Returns the pd site with the caches that count."""
        local = candidates.local
        return local.without_far() if local is not None and self.bandwidth_scarce else local

    def _attracts(self, remote: Candidate, local_uncached_tokens: int) -> bool:
        return remote.uncached_tokens < local_uncached_tokens and remote.uncached_tokens <= self.threshold_tokens
