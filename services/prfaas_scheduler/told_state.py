"""State of the scheduler in the terms of its answer to a gateway. Pure."""

from prfaas.contracts.scheduler_state import MAX_SITES, SchedulerState, SiteState
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import LinkEstimate
from prfaas_scheduler.breaker import BreakerState
from prfaas_scheduler.config import SchedulerConfig
from prfaas_scheduler.fleet import LINK_TIMEOUT_S, Fleet
from prfaas_scheduler.policies.threshold import Threshold
from prfaas_scheduler.service_core import SchedulerCore


def told_state(config: SchedulerConfig, core: SchedulerCore, term: int, now_s: float) -> SchedulerState:
    fleet, policy = core.fleet, core.policy
    fleet.advance(now_s)
    return SchedulerState(
        name=config.name,
        term=term,
        policy=config.policy,
        threshold_tokens=policy.threshold_tokens if isinstance(policy, Threshold) else None,
        ttft_objective_s=config.ttft_objective_s,
        sites=tuple(_site(fleet, name, now_s) for name in sorted(fleet.sites)[:MAX_SITES]),
        links=_links(fleet, now_s),
    )


def _links(fleet: Fleet, now_s: float) -> tuple[LinkEstimate, ...]:
    """Returns the estimates that are not too old."""
    fresh = sorted(key for key, (_, heard_at) in fleet.links.items() if now_s - heard_at <= LINK_TIMEOUT_S)
    return tuple(fleet.links[key][0] for key in fresh[:MAX_SITES])


def _site(fleet: Fleet, name: str, now_s: float) -> SiteState:
    known, workers = fleet.sites[name], fleet.alive[name, Role.PREFILL]
    announced = known.queue if known.queue is not None and not known.queue.is_silent(now_s) else None
    wait_s = announced.wait_s(workers, now_s) if announced is not None else known.backlog.wait_s(workers, now_s)
    # The own site's breaker is never asked: it answers in any case.
    breaker = BreakerState.CLOSED if name == fleet.site else known.breaker.state(now_s)
    return SiteState(
        site=name,
        wait_s=wait_s if workers else 0.0,
        placed=len(known.backlog),
        owed_bytes=0.0 if name == fleet.site else max(0.0, known.backlog.kv_bytes),
        breaker=breaker.value,
        distrusted=name != fleet.site and known.breaker.distrusts(now_s),
    )
