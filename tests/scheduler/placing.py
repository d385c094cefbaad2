"""A scheduler's core with a small fleet, and requests placed through it."""

from typing import Any

from prfaas.contracts.terms import Role
from prfaas.contracts.to_gateway import Placement, Refusal
from prfaas.contracts.to_scheduler import AttemptEnded, Heartbeat, LinkEstimate, PlaceRequest
from prfaas_scheduler.events import AttemptOver, HeartbeatReceived, PlacementRequested
from prfaas_scheduler.policies.base import Policy
from prfaas_scheduler.service_core import SchedulerCore

SPEED = {"prefill_points": ((100.0, 0.1), (8000.0, 8.0)), "kv_points": ((1.0, 1e5), (8000.0, 8e8))}
STEPS: dict[str, Any] = {"step_points": ((1.0, 0.02), (10.0, 0.03), (40.0, 0.06)), "output_tokens": 500.0}


def beat(site: str, worker: str, role: Role, **load: Any) -> Heartbeat:
    if role is Role.DECODE:
        load = {"slots": 2, "waiting_limit": 1} | load
    defaults: dict[str, Any] = {"model": "m", "fingerprint": "f", "max_context_tokens": 8192}
    return Heartbeat(site=site, worker=worker, role=role, **(defaults | load))


def scheduler(policy: Policy, *beats: Heartbeat, tpot_objective_s: float = 0.0) -> SchedulerCore:
    core = SchedulerCore("home", policy, tpot_objective_s=tpot_objective_s)
    for heard in beats or (
        beat("home", "d0", Role.DECODE),
        beat("home", "p0", Role.PREFILL),
        beat("far", "p1", Role.PREFILL),
    ):
        core.handle(HeartbeatReceived(0.0, heard))
    return core


def place(core: SchedulerCore, prompt_tokens: int = 100, now_s: float = 0.0, **changes: Any) -> Placement | Refusal:
    request = PlaceRequest(
        request_id=changes.get("request_id", "r"),
        model=changes.get("model", "m"),
        prompt_tokens=prompt_tokens,
        max_tokens=8,
        ttft_deadline_s=30.0,
        refused_by=changes.get("refused_by", ()),
    )
    (answer,) = core.handle(PlacementRequested(now_s, request))
    core.validate()
    return answer.answer


def placed(core: SchedulerCore, prompt_tokens: int = 100, now_s: float = 0.0, **changes: Any) -> Placement:
    answer = place(core, prompt_tokens, now_s, **changes)
    assert isinstance(answer, Placement), answer
    return answer


def refused(core: SchedulerCore, now_s: float = 0.0, **changes: Any) -> Refusal:
    answer = place(core, now_s=now_s, **changes)
    assert isinstance(answer, Refusal), answer
    return answer


def over(core: SchedulerCore, request_id: str, site: str, now_s: float = 0.0, **changes: Any) -> None:
    ended = AttemptEnded(request_id=request_id, site=site, **({"verified": True} | changes))
    assert core.handle(AttemptOver(now_s, ended)) == []
    core.validate()


def far_link(goodput_bytes_per_s: float = 1e9) -> LinkEstimate:
    return LinkEstimate(source="far", destination="home", rtt_s=0.02, goodput_bytes_per_s=goodput_bytes_per_s, samples=1)


FAR = beat("far", "p1", Role.PREFILL)
