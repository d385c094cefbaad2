"""Links and workers die in the middle of a transfer: the same answer, and the outcome says what happened."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import openai
import pytest
import pytest_asyncio

from prfaas.site.sites import Role
from prfaas.stack.service_process import ServiceProcess
from prfaas.stack.stack import Stack
from prfaas.wan.control import LinkChange
from prfaas.wan.proxy import LinkState
from tests.e2e.asking import Told, complete, tokens_of, use_policy
from tests.e2e.conftest import describe

DESCRIPTION = describe("gemma-3-270m")
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

PROMPT_TOKENS = 1800
"""Several chunks: a prefill of seconds, whose transfer can be hit while it runs."""


Strike = Callable[[], Awaitable[None]]


async def start_again(stack: Stack, worker: ServiceProcess) -> None:
    await worker.wait()
    await worker.spawn()
    await worker.wait_ready(120.0)
    await stack.wait_introduced()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def expected(stack: Stack) -> Told:
    """Answer to the prompt when it is prefilled at home."""
    await use_policy(stack, "local_only")
    told = await complete(stack, tokens_of(PROMPT_TOKENS))
    await use_policy(stack, "threshold")
    return told


async def ask_until_prefill(stack: Stack, timeout_s: int = 240) -> asyncio.Task[Told]:
    """Returns a request whose job the remote worker has taken.

    Asks again when it is over before that, with twice the time when its deadline has passed."""
    log = stack.process("remote", Role.PREFILL_WORKER).log_path
    while True:
        before = log.stat().st_size
        headers = {"x-prfaas-ttft-deadline-s": str(timeout_s)}
        asked = asyncio.create_task(complete(stack, tokens_of(PROMPT_TOKENS), headers=headers))
        while not asked.done():
            if b"job_taken" in log.read_bytes()[before:]:
                return asked
            await asyncio.sleep(0.02)
        timeout_s *= 2 if asked.exception() else 1


async def hit(stack: Stack, strike: Strike, mend: Strike) -> Told:
    """Strikes while a prompt is prefilled remotely. Returns how it was answered.

    Tries again when it was over first: the prefill takes seconds, but a busy machine may stall the test for longer."""
    while True:
        asked = await ask_until_prefill(stack)
        await strike()
        told = await asked
        if told.outcome != "offloaded":
            return told
        await mend()


async def error_of(stack: Stack, strike: Strike, mend: Strike) -> openai.APIStatusError:
    """Strikes as `hit` does, at what the request cannot do without. Returns the error that it ended with."""
    while True:
        asked = await ask_until_prefill(stack, 6)
        await strike()
        try:
            await asked
        except openai.APIStatusError as error:
            return error
        await mend()


async def test_a_cut_link_falls_back_and_offloading_comes_back(stack: Stack, expected: Told) -> None:
    (link,) = stack.sites.links.values()

    async def cut() -> None:
        await link.change(LinkChange(state=LinkState.CUT))

    async def restore() -> None:
        await link.change(LinkChange(state=LinkState.UP))
        await stack.sites.wait_joined()
        await stack.wait_introduced()

    told = await hit(stack, cut, restore)
    assert told.prefill_site == "local"
    assert told.outcome.startswith("fallback_"), told.outcome
    assert told.answer == expected.answer
    await restore()
    again = await complete(stack, tokens_of(PROMPT_TOKENS))
    assert (again.outcome, again.answer) == ("offloaded", expected.answer)


async def test_a_killed_prefill_worker_falls_back(stack: Stack, expected: Told) -> None:
    worker = stack.process("remote", Role.PREFILL_WORKER)

    async def kill() -> None:
        worker.kill()

    told = await hit(stack, kill, partial(start_again, stack, worker))
    assert told.prefill_site == "local" and told.outcome.startswith("fallback_")
    assert told.answer == expected.answer
    await start_again(stack, worker)


async def test_a_killed_remote_server_falls_back(stack: Stack, expected: Told) -> None:
    server = stack.sites.servers["remote"]

    async def kill() -> None:
        server.kill()

    async def restart() -> None:
        await server.restart()
        await stack.sites.wait_joined()
        await stack.wait_introduced()

    told = await hit(stack, kill, restart)
    assert told.prefill_site == "local" and told.outcome.startswith("fallback_")
    assert told.answer == expected.answer
    await restart()
    again = await complete(stack, tokens_of(PROMPT_TOKENS))
    assert (again.outcome, again.answer) == ("offloaded", expected.answer)


async def test_a_killed_local_server_is_a_clear_error_and_then_all_goes_on(stack: Stack, expected: Told) -> None:
    """Everything of a request goes through it: the request is lost, and says so."""
    server = stack.sites.servers["local"]

    async def kill() -> None:
        server.kill()

    async def restart() -> None:
        await server.restart()
        await stack.sites.wait_joined()
        await stack.wait_introduced()

    error = await error_of(stack, kill, restart)
    assert error.status_code == 503 and error.body
    await restart()
    again = await complete(stack, tokens_of(PROMPT_TOKENS))
    assert again.answer == expected.answer


async def test_a_killed_decode_worker_is_a_clear_error_and_a_new_one_serves(stack: Stack) -> None:
    worker = stack.process("local", Role.DECODE_WORKER)

    async def kill() -> None:
        worker.kill()

    error = await error_of(stack, kill, partial(start_again, stack, worker))
    assert error.status_code in (500, 503)
    await start_again(stack, worker)
    assert (await complete(stack, tokens_of(50))).tokens
