"""Policies by name, made from a scheduler's configuration: what is simulated is what a live scheduler with these keys runs."""

from typing import Any, get_args

import msgspec

from prfaas_scheduler.config import SchedulerConfig
from prfaas_scheduler.fleet import Fleet
from prfaas_scheduler.policies.base import Policy
from prfaas_scheduler.policies.predictive import TTFT_OBJECTIVE_S
from prfaas_scheduler.roles.controller import RoleController

POLICIES: tuple[str, ...] = get_args(SchedulerConfig.__annotations__["policy"])


def scheduler_keys(policy: str, threshold_tokens: float, ttft_objective_s: float = TTFT_OBJECTIVE_S) -> dict[str, Any]:
    """Of a scheduler's configuration file."""
    return {"policy": policy, "threshold-tokens": round(threshold_tokens), "ttft-objective-s": ttft_objective_s}


def make_policy(keys: dict[str, Any]) -> Policy:
    """A fresh one. Raises msgspec.ValidationError."""
    return _config(keys).make_policy()


def make_roles(keys: dict[str, Any], fleet: Fleet) -> RoleController:
    """The same of who changes the workers' roles; `roles-every-s` must not be 0."""
    controller = _config(keys).make_roles(fleet)
    assert controller is not None
    return controller


def _config(keys: dict[str, Any]) -> SchedulerConfig:
    # The site and its server have no say in a decision, but a configuration needs them.
    return msgspec.convert({"site": "home", "control": {"url": ""}} | keys, SchedulerConfig)
