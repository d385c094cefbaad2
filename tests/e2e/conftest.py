"""Real stacks: two sites, an emulated link, every service a process of its own, a real model."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from infra.otlp_sink import OtlpSink
from prfaas.site.sites import Description, Role, load_description
from prfaas.stack.launch import DEMO
from prfaas.stack.stack import Stack


def describe(
    model: str, *, policy: str = "threshold", threshold_tokens: int = 600, dtype: str = "bfloat16", prefix_cache_mib: int = 0
) -> Description:
    """The demo's sites with a threshold that short test prompts can pass. Workers keep no prompts unless they are told to: most
    tests ask the same one again and want it computed again."""
    description = load_description(DEMO)
    worker = {"engine": {"dtype": dtype}, "prefix-cache-mib": prefix_cache_mib}
    changes: dict[Role, dict[str, Any]] = {
        # A CPU without 16-bit arithmetic, shared with other tests, takes many seconds for one chunk.
        Role.GATEWAY: {"ttft-deadline-s": 500.0, "idle-deadline-s": 120.0},
        Role.SCHEDULER: {"policy": policy, "threshold-tokens": threshold_tokens, "ttft-objective-s": 500.0},
        Role.DECODE_WORKER: worker | {"idle-timeout-s": 30.0},
        Role.PREFILL_WORKER: worker,
    }
    services = tuple(
        msgspec.structs.replace(service, config=service.config | changes.get(service.role, {}))
        for service in description.services
    )
    return msgspec.structs.replace(description, model=model, services=services)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sink() -> AsyncIterator[OtlpSink]:
    async with OtlpSink() as sink:
        yield sink


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sink: OtlpSink) -> AsyncIterator[Stack]:
    """One stack per test module; a module sets DESCRIPTION."""
    directory: Path = tmp_path_factory.mktemp("stack")
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    async with Stack(request.module.DESCRIPTION, directory, environ=environ) as stack:
        yield stack
