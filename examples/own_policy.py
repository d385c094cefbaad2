"""A scheduling policy of one's own, beside the paper's, on the paper's machines: `python -m examples.own_policy`.

The simulation runs the scheduler's own core, so a policy that works here works in `prfaas-scheduler`: CONTRIBUTING.md says where
it is registered.
"""

from collections.abc import Callable, Sequence

import msgspec
from rich.console import Console

from load.arrivals import poisson
from load.report import Report, Slo, summarize, table
from load.simulate.paper import DEPLOYMENTS, HOME, LENGTHS, OUTPUT_TOKENS, THRESHOLD_TOKENS, scenario
from load.simulate.world import simulate
from prfaas.contracts.terms import Outcome
from prfaas.replay.arrival import Arrival
from prfaas_scheduler.policies.base import Candidates, Choice, Policy
from prfaas_scheduler.policies.threshold import Threshold
from prfaas_scheduler.prompt import Prompt


class ShortestWait:
    """Sends each prompt to the site where it would begin first, whatever its length."""

    name = "shortest_wait"
    fixed_threshold_tokens = None

    def choose(self, prompt: Prompt, candidates: Candidates) -> Choice:
        places = [*candidates.remotes, *([candidates.local] if candidates.local else [])]
        chosen = min(places, key=lambda place: place.site.wait_s)
        outcome = Outcome.LOCAL_POLICY if chosen is candidates.local else Outcome.OFFLOADED
        return Choice(chosen, outcome, f"{chosen.name} is free in {chosen.site.wait_s:.2f} s")


def run(make_policy: Callable[[], Policy], arrivals: Sequence[Arrival], seconds: float) -> Report:
    """Runs the paper's twelve machines with this policy, and leaves out the first tenth of the run."""
    case = scenario(DEPLOYMENTS["threshold"], arrivals)
    (home,) = case.pd
    case = msgspec.structs.replace(case, pd=[msgspec.structs.replace(home, policy=make_policy)])
    return summarize(simulate(case).records[HOME], Slo(ttft_s=10.0), 0.1 * seconds, seconds)


def compare(seconds: float = 300.0, rate_req_s: float = 2.5) -> dict[str, Report]:
    """Runs both policies with the same arrivals, and prints a table."""
    arrivals = poisson(LENGTHS, rate_req_s=rate_req_s, duration_s=seconds, output_tokens=OUTPUT_TOKENS, seed=1)
    policies: dict[str, Callable[[], Policy]] = {"threshold": lambda: Threshold(THRESHOLD_TOKENS), "shortest_wait": ShortestWait}
    reports = {name: run(make_policy, arrivals, seconds) for name, make_policy in policies.items()}
    Console(width=160).print(table(reports, f"The paper's machines, {rate_req_s:g} requests a second"))
    return reports


if __name__ == "__main__":
    compare()
