"""Policies to compare with: all at home, all away, and dealt out whatever the length."""

from math import inf

from prfaas.contracts.terms import Outcome
from prfaas_scheduler.policies.base import Candidates, Choice
from prfaas_scheduler.prompt import Prompt

MEAN_OVER_PROMPTS = 256
"""Prompts that the running mean of lengths remembers."""


class LocalOnly:
    """Homogeneous PD: everything stays in the pd site."""

    name = "local_only"
    fixed_threshold_tokens: float | None = inf

    def choose(self, prompt: Prompt, candidates: Candidates) -> Choice:
        if candidates.local is None:
            return candidates.only_remote("policy local_only wants the local site")
        return Choice(candidates.local, Outcome.LOCAL_POLICY, "policy local_only")


class RemoteAll:
    """Naive heterogeneous PD: every prompt is prefilled remotely while there is a remote site."""

    name = "remote_all"
    fixed_threshold_tokens: float | None = -1.0

    def choose(self, prompt: Prompt, candidates: Candidates) -> Choice:
        remote = candidates.best_remote()
        if remote is not None:
            return Choice(remote, Outcome.OFFLOADED, "policy remote_all")
        return candidates.no_remote("policy remote_all")


class Balanced:
    """Length-blind: prompts are dealt to the sites in proportion to what their prefill workers can do (not in the paper).

    Smooth weighted round robin: every site earns its share of each prompt, the richest one pays for it and takes it.
    """

    name = "balanced"
    fixed_threshold_tokens: float | None = None

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}
        self._mean_tokens = 0.0
        self._prompts = 0

    def choose(self, prompt: Prompt, candidates: Candidates) -> Choice:
        self._prompts += 1
        self._mean_tokens += (prompt.prefill_tokens - self._mean_tokens) / min(self._prompts, MEAN_OVER_PROMPTS)
        # Each site earns a share of the prompt by its speed.
        able = ([candidates.local] if candidates.local else []) + candidates.remotes
        work_s = [candidate.site.work_s(self._mean_tokens) for candidate in able]
        # A site of unknown speed counts as fast as one whose prompts take a second.
        rates = [candidate.site.workers / (seconds or 1.0) for candidate, seconds in zip(able, work_s, strict=True)]
        for candidate, rate in zip(able, rates, strict=True):
            self._credit[candidate.name] = self._credit.get(candidate.name, 0.0) + rate / sum(rates)
        # The richest one pays.
        chosen = max(able, key=lambda candidate: self._credit[candidate.name])
        self._credit[chosen.name] -= 1.0
        shares = ", ".join(f"{candidate.name} {rate / sum(rates):.0%}" for candidate, rate in zip(able, rates, strict=True))
        outcome = Outcome.LOCAL_POLICY if chosen is candidates.local else Outcome.OFFLOADED
        return Choice(chosen, outcome, f"policy balanced, shares {shares}")
