"""The policies by their names in the configuration. A new policy is one file beside this one and one entry here."""

from collections.abc import Callable
from typing import Final, NamedTuple

from prfaas_scheduler.policies.base import Policy
from prfaas_scheduler.policies.baselines import Balanced, LocalOnly, RemoteAll
from prfaas_scheduler.policies.priced import Priced
from prfaas_scheduler.policies.readings import DynamoCost, Headroom, LeastLoaded, ShortestWait
from prfaas_scheduler.policies.threshold import Threshold
from prfaas_scheduler.policies.threshold_resolved import ResolvedThreshold
from prfaas_scheduler.queue.objectives import TTFT_OBJECTIVE_S


class PolicyOptions(NamedTuple):
    """The keys of SchedulerConfig that policies are made from."""

    threshold_tokens: int = 1024
    resolve_every_s: float = 0.0
    ttft_objective_s: float = TTFT_OBJECTIVE_S
    price_share: float = 1.0


def _threshold(options: PolicyOptions) -> Policy:
    if options.resolve_every_s:
        return ResolvedThreshold(options.threshold_tokens, options.resolve_every_s)
    return Threshold(options.threshold_tokens)


POLICIES: Final[dict[str, Callable[[PolicyOptions], Policy]]] = {
    "local_only": lambda options: LocalOnly(),
    "remote_all": lambda options: RemoteAll(),
    "balanced": lambda options: Balanced(),
    "threshold": _threshold,
    "priced": lambda options: Priced(options.ttft_objective_s, price_share=options.price_share),
    "least_loaded": lambda options: LeastLoaded(),
    "shortest_wait": lambda options: ShortestWait(),
    "dynamo": lambda options: DynamoCost(),
    "headroom": lambda options: Headroom(options.ttft_objective_s),
}
"""Makes a fresh policy: each scheduler has its own, for policies may keep state."""
