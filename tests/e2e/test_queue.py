"""The queue of a prefill site refuses what it cannot serve in time, and the client hears when to come back."""

import asyncio
from typing import Any

import openai
import pytest

from load.emulated_stack import FAR, HOME, MODEL, right_answer, two_sites
from prfaas.site.sites import Role
from prfaas.stack.stack import Stack
from tests.e2e.asking import client_of

DESCRIPTION = two_sites(remote_workers=2, rate_mbit=1000.0, time_scale=2.0, byte_scale=2000.0)
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

OUTPUT_TOKENS = 4
DEADLINE_S = 120.0
LONG_TOKENS = 2000
"""Tokens of a prompt that an emulated worker computes for seconds."""


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


async def sample(stack: Stack, name: str) -> float:
    """Sum of a metric of the prefill site's scheduler."""
    page = await stack.metrics(FAR, "scheduler")
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name))


async def test_what_cannot_be_in_time_is_refused_with_the_time_to_come_back(stack: Stack) -> None:
    for site in (HOME, FAR):
        scheduler = stack.process(site, Role.SCHEDULER)
        await scheduler.stop(DEADLINE_S)
        await scheduler.configure({"ttft-objective-s": 0.05, "ttft-proportional-from-tokens": 100.0}).spawn()
        await scheduler.wait_ready(DEADLINE_S)
    await stack.wait_introduced()
    asked = [asyncio.create_task(ask(stack, LONG_TOKENS - number, 20.0)) for number in range(1, 41)]
    answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), DEADLINE_S)
    refused = [each for each in answers if isinstance(each, openai.RateLimitError)]
    assert refused, "more than two sites can do in that time"
    assert {each.code for each in refused} == {"not_in_time"}
    assert all(int(each.response.headers["retry-after"]) >= 1 for each in refused)
    assert await sample(stack, 'prfaas_queue_left_total{result="refused"}') >= len(refused)
