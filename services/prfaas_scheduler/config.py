"""Configuration keys of `prfaas-scheduler`."""

from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from prfaas.process.config import ServiceConfig, SubjectToken
from prfaas_scheduler.block_directory import MAX_BLOCKS
from prfaas_scheduler.fleet import Fleet
from prfaas_scheduler.policies.base import Policy
from prfaas_scheduler.policies.registry import POLICIES, PolicyOptions
from prfaas_scheduler.pull_sources import PullOptions
from prfaas_scheduler.queue.objectives import PROPORTIONAL_FROM_TOKENS, Objectives
from prfaas_scheduler.queue.options import QueueOptions
from prfaas_scheduler.roles.controller import RoleController

if TYPE_CHECKING:
    PolicyName = str
else:
    PolicyName = Literal[tuple(POLICIES)]  # the registry alone says which policies there are

DEFAULTS = PolicyOptions()


class SchedulerConfig(ServiceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """prfaas-scheduler: places the requests of one pd site, and says when the prefills of its site run."""

    role: ClassVar[str] = "scheduler"
    gone: ClassVar[Mapping[str, str]] = {
        "policy = predictive": "`priced` predicts the time to first token too, and prices take the place of its comfort",
        "comfort-share": "policy `priced` weighs links and workers by their prices; `price-share` scales these",
    }

    places: bool = True
    """False at a site that only prefills: it has a queue, and no requests of its own."""
    serves: tuple[SubjectToken, ...] = ()
    """Pd sites whose prefill jobs this process dispatches to the workers of its site; the own one too. Empty: workers take jobs
    first come, first served."""
    policy: PolicyName = "threshold"
    """Policy that chooses the site of each prefill."""
    threshold_tokens: Annotated[int, Meta(ge=0)] = DEFAULTS.threshold_tokens
    """Policy `threshold`: prompts with more uncached tokens than this are prefilled remotely."""
    resolve_every_s: Annotated[float, Meta(ge=0)] = DEFAULTS.resolve_every_s
    """Policy `threshold`: interval between two solves from observed lengths, prefill times and links; 0: a fixed threshold."""

    price_share: Annotated[float, Meta(ge=0, le=10)] = DEFAULTS.price_share
    """Policy `priced`: factor on the prices of sites and links; 0: the least predicted time to first token."""

    ttft_objective_s: Annotated[float, Meta(gt=0)] = DEFAULTS.ttft_objective_s
    """The time to first token that requests should have."""
    ttft_proportional_from_tokens: Annotated[float, Meta(gt=0)] = PROPORTIONAL_FROM_TOKENS
    """Length beyond which a prefill has more time than that, in proportion to its length."""

    tpot_objective_s: Annotated[float, Meta(ge=0)] = 0.0
    """The time per output token that answers should have: a decode worker counts as full with the largest batch that keeps it,
    by the steps that it observed; 0: with all its slots."""

    put_off_limit_s: Annotated[float, Meta(ge=0)] = inf
    """Longest time beyond its due date that a prefill may be put off; it never is beyond its request's deadline."""

    roles_every_s: Annotated[float, Meta(ge=0)] = 60.0
    """Interval between two looks at whether one of the site's movable workers should change its role; 0: never."""
    roles_drain_s: Annotated[float, Meta(gt=0)] = 120.0
    """Time that a worker's running work may take to finish; else it keeps its role."""
    roles_min_gain: Annotated[float, Meta(ge=0)] = 0.05
    """Least relative growth of the throughput for which a worker moves."""

    max_cached_blocks: Annotated[int, Meta(ge=1)] = MAX_BLOCKS
    """Most pairs of worker and cached block to keep, about 130 bytes each; beyond it the oldest are dropped."""

    cache_pulls: bool = True
    """Lets prompts be placed where their cached prefix is not, and workers pull it from where it is."""
    pulls_from: tuple[SubjectToken, ...] = ()
    """Other sites from which the prefill workers of this one may pull too."""

    @property
    def pulls(self) -> PullOptions:
        return PullOptions(self.cache_pulls, tuple(site for site in self.pulls_from if site != self.site))

    def make_policy(self) -> Policy:
        """A fresh policy."""
        return POLICIES[self.policy](
            PolicyOptions(
                threshold_tokens=self.threshold_tokens,
                resolve_every_s=self.resolve_every_s,
                ttft_objective_s=self.ttft_objective_s,
                price_share=self.price_share,
            )
        )

    @property
    def objectives(self) -> Objectives:
        return Objectives(self.ttft_objective_s, self.ttft_proportional_from_tokens)

    @property
    def queue_options(self) -> QueueOptions:
        return QueueOptions(put_off_limit_s=self.put_off_limit_s)

    def make_roles(self, fleet: Fleet) -> RoleController | None:
        """A fresh controller; None where no worker is ever moved."""
        if not self.roles_every_s:
            return None
        return RoleController(
            fleet,
            every_s=self.roles_every_s,
            drain_s=self.roles_drain_s,
            min_gain=self.roles_min_gain,
            threshold_tokens=self.make_policy().fixed_threshold_tokens,
        )
