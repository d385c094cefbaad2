"""What an operator can set."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from prfaas.scheduler.blocks import MAX_BLOCKS
from prfaas.scheduler.policies import Balanced, LocalOnly, Policy, RemoteAll, Threshold
from prfaas.scheduler.predictive import COMFORT_SHARE, TTFT_OBJECTIVE_S, Predictive
from prfaas.scheduler.resolved import ResolvedThreshold
from prfaas.service.config import ServiceConfig


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

    max_cached_blocks: Annotated[int, Meta(ge=1)] = MAX_BLOCKS
    """Pairs of worker and cached block to remember, about 130 bytes each; beyond it the oldest are forgotten."""

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
