"""Processes of the pd site die while requests run: answers go on where it can be, and nothing stays taken."""

import asyncio

import httpx
import openai
import pytest

from load.emulated_stack import HOME, MODEL, right_answer, two_sites
from prfaas.site.sites import Role
from prfaas.stack.stack import Stack
from tests.e2e.asking import client_of

DESCRIPTION = two_sites(remote_workers=1, rate_mbit=200.0, scheduler={"policy": "local_only"})
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

OUTPUT_TOKENS = 300
DEADLINE_S = 60.0
STANDS_STILL_S = 6.0


def prompt_of(seed: int) -> list[int]:
    return [(index * index + index * seed * 7) % 251 for index in range(300)]


async def stream(stack: Stack, prompt: list[int], seen: asyncio.Event) -> tuple[str, dict[str, object]]:
    """Returns text and report of an answer. Sets `seen` when its first tokens are here."""
    text, report = "", dict[str, object]()
    async with client_of(stack) as client:
        chunks = await client.completions.create(
            model=MODEL,
            prompt=prompt,
            max_tokens=OUTPUT_TOKENS,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"x-prfaas-report": "1"},
        )
        async for chunk in chunks:
            text += chunk.choices[0].text if chunk.choices else ""
            if len(text) > 10:
                seen.set()
            if chunk.usage is not None:
                assert chunk.usage.completion_tokens == OUTPUT_TOKENS
                report = (chunk.usage.model_extra or {})["prfaas"]
    return text, report


async def test_answers_go_on_when_the_decode_worker_is_killed_and_started_again(stack: Stack) -> None:
    prompts = [prompt_of(seed) for seed in (1, 2, 3)]
    seen = [asyncio.Event() for _ in prompts]
    asking = [asyncio.create_task(stream(stack, *each)) for each in zip(prompts, seen, strict=True)]
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(each.wait() for each in seen))
    worker = stack.process(HOME, Role.DECODE_WORKER)
    worker.kill()
    assert not any(each.done() for each in asking), "none was over when the worker died"
    await worker.wait()
    await worker.spawn()
    async with asyncio.timeout(DEADLINE_S):
        answers = await asyncio.gather(*asking)
    for prompt, (text, report) in zip(prompts, answers, strict=True):
        assert text == right_answer(stack.description, prompt, OUTPUT_TOKENS)
        assert report["moves"] == 1
    await worker.wait_ready(DEADLINE_S)


async def slots_taken(stack: Stack) -> float:
    page = await stack.metrics(HOME, "d0")
    (line,) = [line for line in page.splitlines() if line.startswith("vllm:num_requests_running")]
    return float(line.rpartition(" ")[2])


async def test_a_killed_gateway_keeps_no_slot(stack: Stack) -> None:
    seen = asyncio.Event()
    asking = asyncio.create_task(stream(stack, prompt_of(4), seen))
    async with asyncio.timeout(DEADLINE_S):
        await seen.wait()
    assert await slots_taken(stack) == 1
    gateway = stack.process(HOME, Role.GATEWAY)
    gateway.kill()
    with pytest.raises((httpx.HTTPError, openai.APIError)):
        await asking
    await gateway.wait()
    async with asyncio.timeout(DEADLINE_S):
        while await slots_taken(stack):
            await asyncio.sleep(0.05)
    log = stack.process(HOME, Role.DECODE_WORKER).log_path.read_text()
    assert '"gateway_lost"' in log, "it was freed, not finished"
    await gateway.spawn()
    await gateway.wait_ready(DEADLINE_S)


async def test_answers_go_on_when_the_sites_server_is_killed_and_started_again(stack: Stack) -> None:
    """Events on their way die with it, and so do jobs that wait and KV."""
    prompts = [prompt_of(seed) for seed in (5, 6, 7)]
    seen = [asyncio.Event() for _ in prompts]
    asking = [asyncio.create_task(stream(stack, *each)) for each in zip(prompts, seen, strict=True)]
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(each.wait() for each in seen))
    server = stack.sites.servers[HOME]
    server.kill()
    assert not any(each.done() for each in asking), "none was over when the server died"
    late = asyncio.create_task(stream(stack, prompt_of(8), asyncio.Event()))
    await server.start()
    async with asyncio.timeout(2 * DEADLINE_S):
        answers = await asyncio.gather(*asking, late)
    for prompt, (text, _) in zip([*prompts, prompt_of(8)], answers, strict=True):
        assert text == right_answer(stack.description, prompt, OUTPUT_TOKENS)


async def test_requests_wait_while_the_sites_server_stands_still(stack: Stack) -> None:
    server = stack.sites.servers[HOME]
    begun = asyncio.Event()
    running = asyncio.create_task(stream(stack, prompt_of(9), begun))
    async with asyncio.timeout(DEADLINE_S):
        await begun.wait()
    server.pause()
    try:
        waiting = [asyncio.create_task(stream(stack, prompt_of(seed), asyncio.Event())) for seed in (10, 11)]
        await asyncio.wait(waiting, timeout=STANDS_STILL_S)
        assert not any(each.done() for each in waiting), "neither an answer nor an error without a server"
    finally:
        server.resume()
    async with asyncio.timeout(2 * DEADLINE_S):
        answers = await asyncio.gather(running, *waiting)
    for seed, (text, _) in zip((9, 10, 11), answers, strict=True):
        assert text == right_answer(stack.description, prompt_of(seed), OUTPUT_TOKENS)
