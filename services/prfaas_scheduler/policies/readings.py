"""Policies of others, as their public documents describe them. These are readings: neither their code, nor their tuning.

`least_loaded` takes the site with the fewest prompts per worker. `shortest_wait` joins the shortest expected wait, the prompt's
own prefill included. `dynamo` has NVIDIA Dynamo's cost of a worker: the prefill tokens that are active there, plus those of the
prompt that are not cached. `headroom` has llm-d's choice by predicted latency: of the sites that leave room within the objective,
the one with the least room, so that the others keep theirs; without any, the request is shed.
"""

from prfaas.contracts.terms import Outcome
from prfaas_scheduler.candidates import Candidate
from prfaas_scheduler.policies.base import Candidates, Choice
from prfaas_scheduler.policies.prediction import Predicted, predict_local, predict_remote
from prfaas_scheduler.prompt import Prompt


def _all(candidates: Candidates) -> list[Candidate]:
    return ([candidates.local] if candidates.local is not None else []) + candidates.remotes


def _choice(chosen: Candidate, candidates: Candidates, reason: str) -> Choice:
    return Choice(chosen, Outcome.LOCAL_POLICY if chosen is candidates.local else Outcome.OFFLOADED, reason)


class LeastLoaded:
    name = "least_loaded"
    fixed_threshold_tokens: float | None = None

    def choose(self, prompt: Prompt, candidates: Candidates) -> Choice:
        chosen = min(_all(candidates), key=lambda at: (len(at.site.backlog) / at.site.workers, at.name))
        return _choice(chosen, candidates, f"{len(chosen.site.backlog)} prompts for {chosen.site.workers} workers")


class ShortestWait:
    name = "shortest_wait"
    fixed_threshold_tokens: float | None = None

    def choose(self, prompt: Prompt, candidates: Candidates) -> Choice:
        found = predictions(candidates)
        if not found:
            return _choice(_all(candidates)[0], candidates, "no speed is known yet")
        best = min(found, key=lambda at: (at.ttft_s, at.candidate.name))
        return _choice(best.candidate, candidates, f"predicted {best.ttft_s:.2f} s")


class DynamoCost:
    name = "dynamo"
    fixed_threshold_tokens: float | None = None

    def choose(self, prompt: Prompt, candidates: Candidates) -> Choice:
        chosen = min(_all(candidates), key=lambda at: (self._cost_tokens(at), at.name))
        return _choice(chosen, candidates, f"cost {self._cost_tokens(chosen):.0f} tokens per worker")

    def _cost_tokens(self, at: Candidate) -> float:
        return at.site.placed_tokens / at.site.workers + at.uncached_tokens


class Headroom:
    name = "headroom"
    fixed_threshold_tokens: float | None = None

    def __init__(self, ttft_objective_s: float) -> None:
        self.ttft_objective_s = ttft_objective_s

    def choose(self, prompt: Prompt, candidates: Candidates) -> Choice:
        found = predictions(candidates)
        if not found:
            return _choice(_all(candidates)[0], candidates, "no speed is known yet")
        able = [at for at in found if at.ttft_s <= self.ttft_objective_s]
        if able:
            tightest = max(able, key=lambda at: (at.ttft_s, at.candidate.name))
            return _choice(tightest.candidate, candidates, f"predicted {tightest.ttft_s:.2f} s, the least room that is left")
        best = min(found, key=lambda at: (at.ttft_s, at.candidate.name))
        reason = f"predicted {best.ttft_s:.2f} s at best, for an objective of {self.ttft_objective_s:g} s"
        return _choice(best.candidate, candidates, reason)._replace(shed_for_s=best.ttft_s - self.ttft_objective_s)


def predictions(candidates: Candidates) -> list[Predicted]:
    """Predictions for all sites whose speed and link are known."""
    local = predict_local(candidates.local) if candidates.local is not None else None
    remotes = [found for remote in candidates.remotes if (found := predict_remote(remote)) is not None]
    return ([local] if local is not None else []) + remotes
