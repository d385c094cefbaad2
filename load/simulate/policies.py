"""Policies by name, made from a scheduler's configuration: what is simulated is what a live scheduler with these keys runs."""

from typing import Any

import msgspec

from prfaas_scheduler.config import SchedulerConfig
from prfaas_scheduler.fleet import Fleet
from prfaas_scheduler.policies import registry
from prfaas_scheduler.policies.base import Policy
from prfaas_scheduler.queue.objectives import TTFT_OBJECTIVE_S
from prfaas_scheduler.roles.controller import RoleController

POLICIES = tuple(registry.POLICIES)


def scheduler_keys(policy: str, threshold_tokens: float, ttft_objective_s: float = TTFT_OBJECTIVE_S) -> dict[str, Any]:
    """Keys of a scheduler's configuration file."""
    return {"policy": policy, "threshold-tokens": round(threshold_tokens), "ttft-objective-s": ttft_objective_s}


def make_policy(keys: dict[str, Any]) -> Policy:
    """A fresh policy. Raises msgspec.ValidationError."""
    return _config(keys).make_policy()


def make_roles(keys: dict[str, Any], fleet: Fleet) -> RoleController:
    """A fresh role controller; `roles-every-s` must not be 0. Raises msgspec.ValidationError."""
    controller = _config(keys).make_roles(fleet)
    assert controller is not None
    return controller


def _config(keys: dict[str, Any]) -> SchedulerConfig:
    # A configuration needs a site and its server; no decision depends on them.
    return msgspec.convert({"site": "home", "control": {"url": "nats://127.0.0.1:4222"}} | keys, SchedulerConfig)
