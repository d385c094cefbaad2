"""Two sites for other people's clients: emulated engines, or the small real model."""

from typing import Any

import msgspec

from load.emulated_stack import two_sites
from prfaas.site.sites import Description, Role, load_description
from prfaas.stack.launch import DEMO

THRESHOLD_TOKENS = 2048
EMULATED, REAL = "emulated-1t", "smollm2-135m"
MODELS = (EMULATED, REAL)


def description_of(model: str) -> Description:
    """Prefills of more than THRESHOLD_TOKENS that are not cached cross the link; prompts are kept in prefix caches."""
    scheduler: dict[str, Any] = {"policy": "threshold", "threshold-tokens": THRESHOLD_TOKENS}
    if model == EMULATED:
        return two_sites(
            remote_workers=1, rate_mbit=200.0, time_scale=4.0, byte_scale=1000.0, token_scale=1.0, scheduler=scheduler
        )
    demo = load_description(DEMO)
    # A busy machine takes many seconds for one prompt of the real model.
    changes: dict[Role, dict[str, Any]] = {Role.GATEWAY: {"ttft-deadline-s": 120.0}, Role.SCHEDULER: scheduler}
    services = tuple(
        msgspec.structs.replace(service, config=service.config | changes.get(service.role, {})) for service in demo.services
    )
    return msgspec.structs.replace(demo, model=model, services=services)
