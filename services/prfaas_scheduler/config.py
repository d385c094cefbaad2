"""What an operator can set."""

from math import inf
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from prfaas.process.config import ServiceConfig
from prfaas_scheduler.block_directory import MAX_BLOCKS
from prfaas_scheduler.fleet import Fleet
from prfaas_scheduler.policies.base import Balanced, LocalOnly, Policy, RemoteAll, Threshold
from prfaas_scheduler.policies.predictive import COMFORT_SHARE, TTFT_OBJECTIVE_S, Predictive
from prfaas_scheduler.policies.resolved import ResolvedThreshold
from prfaas_scheduler.roles.controller import RoleController


class SchedulerConfig(ServiceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """prfaas-scheduler: places the requests of one pd site."""

    role: ClassVar[str] = "scheduler"

    policy: Literal["local_only", "remote_all", "balanced", "threshold", "predictive"] = "threshold"
    threshold_tokens: Annotated[int, Meta(ge=0)] = 1024
    """Policy `threshold`: prompts with more uncached tokens than this are prefilled remotely."""
    resolve_every_s: Annotated[float, Meta(ge=0)] = 0.0
    """Policy `threshold`: how often the threshold is solved again from observed lengths, prefill times and links; 0: never."""

    comfort_share: Annotated[float, Meta(ge=0, le=1)] = COMFORT_SHARE
    """Policy `predictive`: prompts that the local site serves within this share of the objective stay there."""

    ttft_objective_s: Annotated[float, Meta(gt=0)] = TTFT_OBJECTIVE_S
    """Policy `predictive`: the time to first token that requests should have."""

    roles_every_s: Annotated[float, Meta(ge=0)] = 60.0
    """How often it is asked whether one of the site's movable workers should change its role; 0: never."""
    roles_drain_s: Annotated[float, Meta(gt=0)] = 120.0
    """What a worker runs may take so long to finish; else it keeps its role."""
    roles_min_gain: Annotated[float, Meta(ge=0)] = 0.05
    """A worker moves only where the throughput grows by more than this share."""

    max_cached_blocks: Annotated[int, Meta(ge=1)] = MAX_BLOCKS
    """Pairs of worker and cached block to remember, about 130 bytes each; beyond it the oldest are forgotten."""

    def make_roles(self, fleet: Fleet) -> RoleController | None:
        """None where no worker is ever moved."""
        if not self.roles_every_s:
            return None
        fixed: dict[str, float] = {"local_only": inf, "remote_all": -1.0}
        if not self.resolve_every_s:
            fixed["threshold"] = self.threshold_tokens
        return RoleController(
            fleet,
            every_s=self.roles_every_s,
            drain_s=self.roles_drain_s,
            min_gain=self.roles_min_gain,
            threshold_tokens=fixed.get(self.policy),
        )

    def make_policy(self) -> Policy:
        match self.policy:
            case "local_only":
                return LocalOnly()
            case "remote_all":
                return RemoteAll()
            case "threshold":
                if self.resolve_every_s:
                    return ResolvedThreshold(self.threshold_tokens, self.resolve_every_s)
                return Threshold(self.threshold_tokens)
            case "balanced":
                return Balanced()
            case "predictive":
                return Predictive(ttft_objective_s=self.ttft_objective_s, comfort_share=self.comfort_share)
