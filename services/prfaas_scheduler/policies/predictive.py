"""Our own policy: the least predicted time to first token, from queues, observed speeds, and what each link carries now.

    local   wait + T(l)
    remote  max(wait + T(l), (KV bytes that the link owes + S_kv(l)) / goodput) + RTT

Shipping overlaps prefill, so the slower of the two counts. What the local site serves comfortably within the objective stays:
it costs no bytes on a link that others may need. What the scheduler does not know of a link counts as scarce.

Where no site can keep the objective any more, the prompt is deferred: it waits until a site has no other prompt, so that it
makes none late that can still be served in time. In turn, a surplus would make every request late. It waits at the site that
should come to it first, and no longer than a share of the client's deadline; then it is served in turn, late as it is.
"""

from typing import NamedTuple

from prfaas.contracts.terms import Outcome
from prfaas_scheduler.candidates import PrefillSite
from prfaas_scheduler.policies.base import Candidates, Choice, no_remote, only_remote

TTFT_OBJECTIVE_S = 10.0
COMFORT_SHARE = 0.2
"""Of the objective: what the local site serves in less stays there. A fixed saving to ask for instead would let the local queue
grow up to the objective before the remote site, which is faster, takes over."""
SURE_SHARE = 0.9
"""Of the objective: a prediction above this does not count on keeping it."""


class Predicted(NamedTuple):
    site: PrefillSite
    ttft_s: float
    by_link: bool = False
    """The link, not the prefill, is the slower of the two."""


class Predictive:
    name = "predictive"

    def __init__(self, *, ttft_objective_s: float = TTFT_OBJECTIVE_S, comfort_share: float = COMFORT_SHARE) -> None:
        self.ttft_objective_s = ttft_objective_s
        self.comfort_s = comfort_share * ttft_objective_s

    def choose(self, prefill_tokens: int, candidates: Candidates) -> Choice:
        if candidates.local is None:
            return only_remote(prefill_tokens, candidates, "policy predictive")
        local_s = candidates.local.prefill_s(prefill_tokens)
        if local_s is None:
            return Choice(candidates.local, Outcome.LOCAL_POLICY, "nothing is known of the local site's speed yet")
        local = Predicted(candidates.local, local_s)
        remotes = [found for site in candidates.remotes if (found := _remote(site, prefill_tokens)) is not None]
        if remotes:
            best = min(remotes, key=lambda found: (found.ttft_s, found.site.site))
            numbers = f"predicted {local.ttft_s:.2f} s at home, {best.ttft_s:.2f} s at {best.site.site}"
            choice = self._sooner(local, best, numbers)
        else:
            best = local
            numbers = f"predicted {local.ttft_s:.2f} s at home"
            choice = no_remote(candidates, numbers)
            if candidates.remotes:
                reason = f"{numbers}, and no remote site has a link and a speed that are known now"
                choice = Choice(local.site, Outcome.LOCAL_LINK_SCARCE, reason)
        if min(local.ttft_s, best.ttft_s) > SURE_SHARE * self.ttft_objective_s:
            return self._deferred(prefill_tokens, choice, local.site, remotes, numbers)
        return choice

    def _sooner(self, local: Predicted, best: Predicted, numbers: str) -> Choice:
        if local.ttft_s <= self.comfort_s:
            return Choice(local.site, Outcome.LOCAL_SHORT, f"{numbers}: within {self.comfort_s:g} s at home")
        if best.ttft_s < local.ttft_s:
            return Choice(best.site, Outcome.OFFLOADED, numbers)
        return Choice(local.site, Outcome.LOCAL_LINK_SCARCE if best.by_link else Outcome.LOCAL_SHORT, numbers)

    def _deferred(self, tokens: int, choice: Choice, local: PrefillSite, remotes: list[Predicted], numbers: str) -> Choice:
        """`choice`: what it would be in time."""
        site, idle_s = local, _deferred_s(local, tokens)
        for remote in remotes:
            if (remote_s := _deferred_s(remote.site, tokens)) < idle_s:
                site, idle_s = remote.site, remote_s
        outcome = Outcome.OFFLOADED if site is not local else Outcome.LOCAL_POLICY if remotes else choice.outcome
        late = f"more than {SURE_SHARE:.0%} of {self.ttft_objective_s:g} s"
        reason = f"{numbers}: {late}, so it waits until {site.site} has no other prompt, in {idle_s:.0f} s if none comes"
        return Choice(site, outcome, reason, deferred=True)


def _remote(site: PrefillSite, tokens: int) -> Predicted | None:
    prefill_s = site.prefill_s(tokens)
    if prefill_s is None or site.link is None or not site.link.samples or site.link.goodput_bytes_per_s <= 0:
        return None
    owed_s = site.backlog.kv_bytes / site.link.goodput_bytes_per_s
    ship_s = owed_s + site.ship_bytes(tokens) / site.link.goodput_bytes_per_s
    return Predicted(site, max(prefill_s, ship_s) + site.link.rtt_s, ship_s > prefill_s)


def _deferred_s(site: PrefillSite, tokens: int) -> float:
    """Until a deferred prompt is there, behind all that has been placed."""
    route = site.deferred_route(tokens)
    prefill_s = route.wait_s + (route.work_s or 0.0)
    if site.link is None:
        return prefill_s
    owed_bytes = site.backlog.kv_bytes + site.backlog.deferred_bytes + site.ship_bytes(tokens)
    return max(prefill_s, owed_bytes / site.link.goodput_bytes_per_s)
