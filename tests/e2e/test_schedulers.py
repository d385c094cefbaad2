"""Two schedulers: the leader dies, or stands still, while requests come, and none of them fails."""

import asyncio
import os
import signal

import msgspec
import pytest

from load.emulated_stack import HOME, MODEL, right_answer, two_sites
from prfaas.site.sites import Description, Role
from prfaas.stack.service_process import ServiceProcess
from prfaas.stack.stack import Stack
from tests.e2e.asking import client_of

OUTPUT_TOKENS = 8
DEADLINE_S = 60.0


def with_standby(description: Description) -> Description:
    (scheduler,) = [service for service in description.services if (service.site, service.role) == (HOME, Role.SCHEDULER)]
    standby = msgspec.structs.replace(scheduler, name="standby")
    return msgspec.structs.replace(description, services=(*description.services, standby))


DESCRIPTION = with_standby(two_sites(remote_workers=1, rate_mbit=200.0, scheduler={"policy": "local_only"}))
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]


async def leaders(stack: Stack) -> list[ServiceProcess]:
    """Returns the schedulers that say that they lead, of those that run."""
    found = []
    for process in stack.processes(HOME, Role.SCHEDULER):
        if process.exit_code is None and "prfaas_scheduler_leads 1.0" in await stack.metrics(HOME, process.name):
            found.append(process)
    return found


async def the_leader(stack: Stack) -> ServiceProcess:
    async with asyncio.timeout(DEADLINE_S):
        while len(found := await leaders(stack)) != 1:
            await asyncio.sleep(0.05)
    return found[0]


async def asked(stack: Stack, seed: int) -> None:
    """Asks and compares. The prompt is too long for the gateway to place it itself."""
    prompt = [(index * seed) % 251 for index in range(2100)]
    async with client_of(stack) as client:
        answer = await client.completions.create(model=MODEL, prompt=prompt, max_tokens=OUTPUT_TOKENS, temperature=0)
    assert answer.choices[0].text == right_answer(stack.description, prompt, OUTPUT_TOKENS)


async def test_the_leader_is_killed_and_no_request_fails(stack: Stack) -> None:
    leader = await the_leader(stack)
    asking = [asyncio.create_task(asked(stack, 1))]
    leader.kill()
    asking += [asyncio.create_task(asked(stack, seed)) for seed in (2, 3)]
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*asking)
    assert await the_leader(stack) is not leader
    await leader.wait()
    await leader.spawn()
    await leader.wait_ready(DEADLINE_S)
    await asked(stack, 4)


async def test_the_leader_stands_still_and_does_not_act_when_it_wakes(stack: Stack) -> None:
    leader = await the_leader(stack)
    (other,) = [process for process in stack.processes(HOME, Role.SCHEDULER) if process is not leader]
    os.kill(leader.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*(asked(stack, seed) for seed in (5, 6)))
        assert "prfaas_scheduler_leads 1.0" in await stack.metrics(HOME, other.name)
    finally:
        os.kill(leader.pid, signal.SIGCONT)
    await asked(stack, 7)
    assert await the_leader(stack) is other


async def test_the_leader_hands_over_when_it_is_stopped(stack: Stack) -> None:
    leader = await the_leader(stack)
    async with asyncio.timeout(DEADLINE_S):
        stopping = asyncio.create_task(leader.stop(DEADLINE_S))
        await asyncio.gather(*(asked(stack, seed) for seed in (8, 9)))
        assert await stopping == 0
    assert await the_leader(stack) is not leader
    await leader.spawn()
    await leader.wait_ready(DEADLINE_S)
