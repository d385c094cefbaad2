"""Policy `predictive`, not in the paper: the least predicted time to first token, from queues, observed speeds, and links.

What the local site serves comfortably within the objective stays:
it costs no bytes on a link that others may need. What the scheduler does not know of a link counts as scarce.

Where no site can keep the objective any more, the prompt is deferred: it waits until a site has no other prompt, so that it
makes none late that can still be served in time. In turn, a surplus would make every request late. It waits at the site that
should come to it first, and no longer than a share of the client's deadline; then it is served in turn, late as it is.
"""

from prfaas.contracts.terms import Outcome
from prfaas_scheduler.candidates import Candidate
from prfaas_scheduler.policies.base import Candidates, Choice
from prfaas_scheduler.policies.prediction import Predicted, predict_remote
from prfaas_scheduler.prompt import Prompt

TTFT_OBJECTIVE_S = 10.0
"""Time to first token that requests should have."""
COMFORT_SHARE = 0.2
"""Share of the objective within which the local site serves prompts that stay there. A fixed saving to ask for instead would
let the local queue grow up to the objective before the remote site, which is faster, takes over."""
SURE_SHARE = 0.9
"""Predictions above this share of the objective count as missing it."""


class Predictive:
    name = "predictive"
    fixed_threshold_tokens: float | None = None

    def __init__(self, *, ttft_objective_s: float = TTFT_OBJECTIVE_S, comfort_share: float = COMFORT_SHARE) -> None:
        self.ttft_objective_s = ttft_objective_s
        self.comfort_s = comfort_share * ttft_objective_s

    def choose(self, prompt: Prompt, candidates: Candidates) -> Choice:
        if candidates.local is None:
            return candidates.only_remote("policy predictive")
        local_s = candidates.local.route.prefill_s
        if local_s is None:
            return Choice(candidates.local, Outcome.LOCAL_POLICY, "nothing is known of the local site's speed yet")
        # The choice if it is in time.
        local = Predicted(candidates.local, local_s)
        remotes = [found for remote in candidates.remotes if (found := predict_remote(remote)) is not None]
        if remotes:
            best = min(remotes, key=lambda found: (found.ttft_s, found.candidate.name))
            numbers = f"predicted {local.ttft_s:.2f} s at home, {best.ttft_s:.2f} s at {best.candidate.name}"
            choice = self._sooner(local, best, numbers)
        else:
            best = local
            numbers = f"predicted {local.ttft_s:.2f} s at home"
            choice = candidates.no_remote(numbers)
            if candidates.remotes:
                reason = f"{numbers}, and no remote site has a link and a speed that are known now"
                choice = Choice(local.candidate, Outcome.LOCAL_LINK_SCARCE, reason)
        # Late wherever it goes: it gives way to prompts that can still be served in time.
        if min(local.ttft_s, best.ttft_s) > SURE_SHARE * self.ttft_objective_s:
            return self._deferred(choice, local.candidate, remotes, numbers)
        return choice

    def _sooner(self, local: Predicted, best: Predicted, numbers: str) -> Choice:
        if local.ttft_s <= self.comfort_s:
            return Choice(local.candidate, Outcome.LOCAL_SHORT, f"{numbers}: within {self.comfort_s:g} s at home")
        if best.ttft_s < local.ttft_s:
            return Choice(best.candidate, Outcome.OFFLOADED, numbers)
        return Choice(local.candidate, Outcome.LOCAL_LINK_SCARCE if best.by_link else Outcome.LOCAL_SHORT, numbers)

    def _deferred(self, choice: Choice, local: Candidate, remotes: list[Predicted], numbers: str) -> Choice:
        """The choice for a late prompt: the site that comes to it first. `choice` is what it would be in time."""
        chosen, idle_s = local, _deferred_ttft_s(local)
        for remote in remotes:
            if (remote_s := _deferred_ttft_s(remote.candidate)) < idle_s:
                chosen, idle_s = remote.candidate, remote_s
        if chosen is not local:
            outcome = Outcome.OFFLOADED
        elif remotes:
            outcome = Outcome.LOCAL_POLICY
        else:
            outcome = choice.outcome
        late = f"more than {SURE_SHARE:.0%} of {self.ttft_objective_s:g} s"
        reason = f"{numbers}: {late}, so it waits until {chosen.name} has no other prompt, in {idle_s:.0f} s if none comes"
        return Choice(chosen, outcome, reason, deferred=True)


def _deferred_ttft_s(candidate: Candidate) -> float:
    """Predicted TTFT of a deferred prompt, if no other comes."""
    site, route = candidate.site, candidate.deferred_route
    prefill_s = route.prefill_s if route.prefill_s is not None else route.wait_s
    if site.link is None:
        return prefill_s
    owed_bytes = site.backlog.kv_bytes + site.backlog.deferred_bytes + candidate.ship_bytes
    return max(prefill_s, owed_bytes / site.link.goodput_bytes_per_s)
