"""examples/ask.py against a running stack with emulated engines."""

import asyncio
import sys
from pathlib import Path

import pytest

from load.emulated_stack import HOME, MODEL, right_answer, two_sites
from prfaas.stack.stack import Stack

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PROMPT = "Which way is the shortest? " * 20


async def ask(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "examples/ask.py", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace"), errors.decode()


async def test_the_example_asks_and_says_where_the_prompt_was_prefilled(tmp_path: Path) -> None:
    description = two_sites(remote_workers=1, rate_mbit=200.0)
    async with Stack(description, tmp_path) as stack:
        base_url = f"{stack.gateway_url(HOME)}/v1"
        status, out, errors = await ask(PROMPT, "--base-url", base_url, "--max-tokens", "8")
        assert (status, errors) == (0, "")
        decision, _, answer = out.partition("\n")
        assert decision.startswith("offloaded at remote: ")
        right = right_answer(description, list(PROMPT.encode()), 8)
        assert answer == f"{right}\n"
        status, _, errors = await ask(PROMPT, "--base-url", base_url, "--model", "unknown")
        assert status == 1 and "no answer: " in errors and MODEL in errors
