"""The queue of a prefill site: its order, what it refuses, and its scheduler killed while jobs wait there."""

import asyncio
import json
from collections import Counter
from typing import Any

import openai
import pytest
from msgspec.structs import replace

from infra.stack import Stack
from load.emulated_stack import FAR, HOME, MODEL, right_answer, two_sites
from prfaas.site.sites import Description, Role
from tests.e2e.asking import client_of

OBJECTIVES = {"ttft-objective-s": 20.0, "ttft-proportional-from-tokens": 100.0}
"""A prompt of 300 tokens is due after 60 s, a longer one later."""


def describe() -> Description:
    found = two_sites(remote_workers=2, rate_mbit=1000.0, time_scale=2.0, byte_scale=2000.0)
    services = [
        replace(each, config=each.config | OBJECTIVES) if each.role is Role.SCHEDULER and each.site == FAR else each
        for each in found.services
    ]
    return replace(found, services=tuple(services))


DESCRIPTION = describe()
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

OUTPUT_TOKENS = 4
DEADLINE_S = 120.0
WORKERS = ("p0", "p1")
BUSY_TOKENS = 2000
"""A prompt of this length keeps an emulated worker busy for seconds."""


def prompt_of(tokens: int) -> list[int]:
    return [(index * index + index * tokens * 7) % 251 for index in range(tokens)]


async def ask(stack: Stack, tokens: int, deadline_s: float) -> dict[str, Any]:
    """Returns the report of a right answer. Raises openai.APIStatusError."""
    async with client_of(stack) as client:
        answer = await client.completions.create(
            model=MODEL,
            prompt=prompt_of(tokens),
            max_tokens=OUTPUT_TOKENS,
            temperature=0,
            extra_headers={"x-prfaas-report": "1", "x-prfaas-ttft-deadline-s": str(deadline_s)},
        )
    assert answer.choices[0].text == right_answer(stack.description, prompt_of(tokens), OUTPUT_TOKENS)
    assert answer.usage is not None
    return dict((answer.usage.model_extra or {})["prfaas"])


def jobs_taken(stack: Stack) -> list[tuple[str, int, int]]:
    """(request, attempt, prompt's tokens) of each prefill that a worker of the prefill site has begun, in their order."""
    lines = [line for name in WORKERS for line in stack.services[FAR, name].log_path.read_text().splitlines()]
    taken = list(map(json.loads, filter(lambda line: '"job_taken"' in line, lines)))
    taken.sort(key=lambda entry: entry["timestamp"])
    return [(entry["request_id"], entry["attempt"], entry["tokens"] + 1) for entry in taken]


async def sample(stack: Stack, name: str) -> float:
    """Sum of a metric of the prefill site's scheduler."""
    page = await stack.metrics(FAR, "scheduler")
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name))


async def until_waiting(stack: Stack, jobs: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await sample(stack, "prfaas_queue_jobs") < jobs:
            await asyncio.sleep(0.02)


async def keep_busy(stack: Stack) -> list[asyncio.Task[dict[str, Any]]]:
    """Gives each worker of the prefill site a long prompt."""
    before = len(jobs_taken(stack))
    tasks = [asyncio.create_task(ask(stack, BUSY_TOKENS + number, 400.0)) for number in range(len(WORKERS))]
    async with asyncio.timeout(DEADLINE_S):
        while len(jobs_taken(stack)) < before + len(WORKERS):
            await asyncio.sleep(0.02)
    return tasks


async def test_what_is_due_first_runs_first(stack: Stack) -> None:
    busy = await keep_busy(stack)
    waiting = []
    for number, tokens in enumerate((1500, 1501, 301, 302)):
        waiting.append(asyncio.create_task(ask(stack, tokens, 400.0)))
        await until_waiting(stack, number + 1)
    reports = await asyncio.wait_for(asyncio.gather(*busy, *waiting), DEADLINE_S)
    assert {report["prefill_site"] for report in reports} == {FAR}
    order = [tokens for _, _, tokens in jobs_taken(stack) if tokens in (1500, 1501, 301, 302)]
    assert set(order[:2]) == {301, 302} and set(order[2:]) == {1500, 1501}


async def test_a_scheduler_killed_under_load_loses_nothing_and_nothing_runs_twice(stack: Stack) -> None:
    taken_before = len(jobs_taken(stack))
    busy = await keep_busy(stack)
    waiting = [asyncio.create_task(ask(stack, 400 + number, 400.0)) for number in range(10)]
    await until_waiting(stack, 10)
    scheduler = stack.services[FAR, "scheduler"]
    scheduler.kill()
    await scheduler.wait()
    # Without it the workers serve themselves; what comes meanwhile too.
    late = [asyncio.create_task(ask(stack, 500 + number, 400.0)) for number in range(4)]
    await asyncio.wait_for(busy[0], DEADLINE_S)
    await scheduler.spawn()
    await scheduler.wait_ready(DEADLINE_S)
    reports = await asyncio.wait_for(asyncio.gather(*busy, *waiting, *late), DEADLINE_S)
    assert [report["transfer"]["attempts"] for report in reports] == [1] * len(reports)
    taken = jobs_taken(stack)[taken_before:]
    assert len(taken) == len(reports) and set(Counter(taken).values()) == {1}
    # The new one is in charge again.
    dispatched = await sample(stack, 'prfaas_queue_left_total{result="dispatched"}')
    async with asyncio.timeout(DEADLINE_S):
        while await sample(stack, "prfaas_queue_ready_workers") < len(WORKERS):
            await asyncio.sleep(0.05)
    await ask(stack, 600, 400.0)
    assert await sample(stack, 'prfaas_queue_left_total{result="dispatched"}') == dispatched + 1


async def test_what_cannot_be_in_time_is_refused_with_the_time_to_come_back(stack: Stack) -> None:
    for site in (HOME, FAR):
        scheduler = stack.process(site, Role.SCHEDULER)
        await scheduler.stop(DEADLINE_S)
        await scheduler.configure({"ttft-objective-s": 0.05, "ttft-proportional-from-tokens": 100.0}).spawn()
        await scheduler.wait_ready(DEADLINE_S)
    await stack.wait_introduced()
    busy = await keep_busy(stack)
    asked = [asyncio.create_task(ask(stack, BUSY_TOKENS - number, 20.0)) for number in range(1, 41)]
    answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), DEADLINE_S)
    refused = [each for each in answers if isinstance(each, openai.RateLimitError)]
    assert refused, "more than two sites can do in that time"
    assert {each.code for each in refused} == {"not_in_time"}
    assert all(int(each.response.headers["retry-after"]) >= 1 for each in refused)
    assert await sample(stack, 'prfaas_queue_left_total{result="refused"}') >= len(refused)
    await asyncio.wait_for(asyncio.gather(*busy), DEADLINE_S)
