"""Policy `priced`, not in the paper: the least predicted time to first token, plus the price of what a prompt takes from others.

    cost = predicted TTFT + pressure x (price of the site's time x work + price of the link x KV bytes)

Prices are the shadow prices of the paper's own program: at the best threshold t a prompt of t tokens costs the same on both
sides, so where the workers bind, their time is worth T_local(t) / T_remote(t) of the local site's, and where the link binds, its
bytes are worth T_local(t) / S_kv(t). They come from the lengths, speeds and links that were observed lately, and are solved again
every few seconds. The pressure is the wait of all sites over the objective: without queues there is nothing to save, and the
soonest site wins; at the objective a prompt goes where it costs the least capacity.
"""

from collections import deque
from math import inf
from typing import NamedTuple

from prfaas.capacity.mean_work import mean_work_limits
from prfaas.contracts.terms import Outcome
from prfaas_scheduler.candidates import Candidate
from prfaas_scheduler.policies.base import Candidates, Choice
from prfaas_scheduler.policies.prediction import Predicted, predict_local, predict_remote
from prfaas_scheduler.prefill_stage import local_stage, remote_stage
from prfaas_scheduler.prompt import Prompt

SOLVE_EVERY_S = 10.0
WINDOW_REQUESTS = 1024
MIN_REQUESTS = 64


class Prices(NamedTuple):
    """Prices of one remote site, in seconds of a local worker."""

    work: float
    """Price of a second of one of its workers."""
    per_byte_s: float
    """Price of a byte on its link."""


FREE = Prices(0.0, 0.0)


class Priced:
    name = "priced"
    fixed_threshold_tokens: float | None = None

    def __init__(self, ttft_objective_s: float, *, price_share: float = 1.0) -> None:
        """`price_share`: factor on the prices; 0: the least predicted TTFT."""
        self.ttft_objective_s = ttft_objective_s
        self.price_share = price_share
        self._lengths: deque[int] = deque(maxlen=WINDOW_REQUESTS)
        self._solve_at = -inf
        self._prices: dict[str, Prices] = {}
        """Prices by remote site; without any every place is free."""

    def choose(self, prompt: Prompt, candidates: Candidates) -> Choice:
        if candidates.local is None:
            return candidates.only_remote("policy priced")
        local = predict_local(candidates.local)
        if local is None:
            return Choice(candidates.local, Outcome.LOCAL_POLICY, "nothing is known of the local site's speed yet")
        self._observe(candidates)
        remotes = [found for remote in candidates.remotes if (found := predict_remote(remote)) is not None]
        if not remotes:
            numbers = f"predicted {local.ttft_s:.2f} s at home"
            if candidates.remotes:
                reason = f"{numbers}, and no remote site has a link and a speed that are known now"
                return Choice(local.candidate, Outcome.LOCAL_LINK_SCARCE, reason)
            return candidates.no_remote(numbers)
        return self._cheapest(local, remotes)

    def _cheapest(self, local: Predicted, remotes: list[Predicted]) -> Choice:
        pressure = self._pressure(local, remotes)
        local_cost_s = local.ttft_s + pressure * (local.candidate.route.work_s or 0.0) * bool(self._prices)
        costs_s = [at.ttft_s + pressure * self._price_s(at.candidate) for at in remotes]
        cost_s, _, best = min(
            (cost_s, at.candidate.name, at) for cost_s, at in zip(costs_s, remotes, strict=True)
        )  # names are unique, so predictions are never compared
        numbers = (
            f"predicted {local.ttft_s:.2f} s at home, {best.ttft_s:.2f} s at {best.candidate.name}; "
            f"with prices {local_cost_s:.2f} s and {cost_s:.2f} s"
        )
        if cost_s < local_cost_s:
            return Choice(best.candidate, Outcome.OFFLOADED, numbers)
        return Choice(local.candidate, Outcome.LOCAL_LINK_SCARCE if best.by_link else Outcome.LOCAL_SHORT, numbers)

    def _pressure(self, local: Predicted, remotes: list[Predicted]) -> float:
        """Mean wait over all workers, as a share of the objective."""
        sites = [local.candidate.site, *(at.candidate.site for at in remotes)]
        wait_s = sum(site.wait_s * site.workers for site in sites) / sum(site.workers for site in sites)
        return self.price_share * min(1.0, wait_s / self.ttft_objective_s)

    def _price_s(self, remote: Candidate) -> float:
        prices = self._prices.get(remote.name, FREE)
        return prices.work * (remote.route.work_s or 0.0) + prices.per_byte_s * remote.ship_bytes

    def _observe(self, candidates: Candidates) -> None:
        """Notes the prompt's length, and solves for prices when it is time."""
        local = candidates.local
        assert local is not None
        self._lengths.append(max(1, local.uncached_tokens))
        if local.site.now_s < self._solve_at or len(self._lengths) < MIN_REQUESTS:
            return
        self._solve_at = local.site.now_s + SOLVE_EVERY_S
        here = local_stage(local.site)
        known = {at.name: stage for at in candidates.remotes if (stage := remote_stage(at.site)) is not None}
        if here is None or not known:
            self._prices = {}
            return
        t, _ = mean_work_limits(self._lengths, here, list(known.values())).best()
        t = max(1, t)
        above = [tokens for tokens in self._lengths if tokens > t] or [t]
        for name, stage in known.items():
            work_s = sum(map(stage.prefill_s, above)) / stage.workers
            shipped_s = sum(map(stage.kv_bytes, above)) / stage.egress_bytes_per_s
            if work_s >= shipped_s:
                self._prices[name] = Prices(here.prefill_s(t) / stage.prefill_s(t), 0.0)
            else:
                self._prices[name] = Prices(0.0, here.prefill_s(t) / stage.kv_bytes(t))
