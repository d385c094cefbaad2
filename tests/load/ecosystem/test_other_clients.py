"""AIPerf and GuideLLM against our gateway, emulated and with a real model: `make test-ecosystem` installs both."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from load.ecosystem.__main__ import faults
from load.ecosystem.clients import CLIENTS, Job
from load.ecosystem.excerpt import excerpt, write_mooncake
from load.ecosystem.run import run_client
from load.ecosystem.stacks import EMULATED, REAL, description_of
from load.ecosystem.tokenizer import hub_environ, write_hub_cache
from prfaas.engine.weights import prepare
from prfaas.stack.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]
OTHERS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            not CLIENTS[name].program.exists(), reason=f"{name} is not installed: `make test-ecosystem` does it"
        ),
    )
    for name in ("aiperf", "guidellm")
]
TAKEN = {
    EMULATED: partial(excerpt, requests=24, rate_req_s=4.0, max_input_tokens=8192, max_output_tokens=32),
    REAL: partial(excerpt, requests=3, rate_req_s=0.5, max_input_tokens=1024, max_output_tokens=4),
}


@pytest_asyncio.fixture(params=[EMULATED, REAL], loop_scope="module", scope="module")
async def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with Stack(description_of(request.param), tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.mark.parametrize("name", OTHERS)
async def test_a_mooncake_excerpt_is_replayed_without_an_error_and_with_cache_figures(
    name: str, stack: Stack, tmp_path: Path
) -> None:
    model = stack.description.model
    taken, trace = TAKEN[model](), tmp_path / "excerpt.jsonl"
    write_mooncake(taken, trace)
    tokenizer = write_hub_cache(prepare(model), tmp_path / "hub")
    job = Job(url=stack.gateway_url("local"), model=model, trace=trace, tokenizer=tokenizer, out=tmp_path / name)
    found = await run_client(CLIENTS[name], job, hub_environ(tmp_path / "hub"), timeout_s=300.0)
    assert faults({name: found}, len(taken)) == []
