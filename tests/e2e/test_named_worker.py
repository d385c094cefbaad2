"""Two prefill workers: a prompt goes to the one that has its prefix, and when that one dies, no request waits for it."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from prfaas.site.sites import Description, Role, Service, Site, SiteKind
from prfaas.stack.stack import Stack
from tests.e2e.asking import Told, complete, tokens_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]
DEADLINE_S = 60.0
PREFIX_TOKENS = 4096
WORKERS = ("p0", "p1")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    emulated = {"byte-scale": 1000.0, "time-scale": 4.0}
    worker = {"engine": {"engine": "emulated", "emulated": emulated}}
    services = [
        Service(site="local", role=Role.GATEWAY, name="gateway"),
        Service(site="local", role=Role.SCHEDULER, name="scheduler"),
        *(Service(site="local", role=Role.PREFILL_WORKER, name=name, config=worker) for name in WORKERS),
        Service(site="local", role=Role.DECODE_WORKER, name="decode", config=worker),
    ]
    description = Description(model="emulated-1t", sites=(Site(name="local", kind=SiteKind.PD),), services=tuple(services))
    directory: Path = tmp_path_factory.mktemp("stack")
    async with Stack(description, directory) as stack:
        yield stack


async def ask(stack: Stack, prefix: int, question: int) -> Told:
    tokens = tokens_of(PREFIX_TOKENS, prefix) + tokens_of(50, question)
    return await complete(stack, [token % 256 for token in tokens])


async def named_prefix(stack: Stack) -> tuple[int, str]:
    """A prefix that one worker has and the other has not, as the scheduler knows, and that worker."""
    async with asyncio.timeout(DEADLINE_S):
        for prefix in itertools.count(100):
            await ask(stack, prefix, 0)
            await asyncio.sleep(0.2)  # the worker tells of it in a moment; if it was too short, the next prefix may do
            told = await ask(stack, prefix, 1)
            for name in WORKERS:
                if f"cached at {name}" in told.reason:
                    return prefix, name
    raise AssertionError


def jobs_taken(stack: Stack) -> dict[str, int]:
    return {name: stack.services["local", name].log_path.read_bytes().count(b'"job_taken"') for name in WORKERS}


async def test_a_prompt_goes_to_the_worker_that_has_it_and_elsewhere_when_that_dies(stack: Stack) -> None:
    prefix, holder = await named_prefix(stack)
    before = jobs_taken(stack)
    for question in (2, 3, 4):
        told = await ask(stack, prefix, question)
        assert f"cached at {holder}" in told.reason and told.cached_tokens == PREFIX_TOKENS
    after = jobs_taken(stack)
    assert {name: after[name] - before[name] for name in WORKERS} == {name: 3 * (name == holder) for name in WORKERS}

    worker = stack.services["local", holder]
    worker.kill()
    asked = asyncio.create_task(ask(stack, prefix, 4))
    await worker.wait()
    again = await asyncio.wait_for(asked, DEADLINE_S)  # far below the deadline that it has for its first token
    assert f"cached at {holder}" in again.reason, "placed before the scheduler could know"
    assert again.transfer["attempts"] == 1, "its cache is gone, but the other worker is there"
    assert again.answer == told.answer
    await worker.spawn()
    await worker.wait_ready(DEADLINE_S)
