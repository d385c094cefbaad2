"""`prfaas ask` and `prfaas chat` against a running stack with emulated engines; its gateway's document of the API too."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from load.emulated_stack import FAR, HOME, two_sites
from prfaas.engine.model_reference import model_name
from prfaas.stack.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

DEADLINE_S = 100.0
THRESHOLD_TOKENS = 600
LAST_LINE = re.compile(
    r"prefilled: at (?P<site>\w+) \((?P<outcome>\w+): (?P<reason>.+)\); (?P<shipped>[^;]+ link); "
    r"first token after [\d.]+ m?s; (?P<prompt>[\d,]+) \+ (?P<answer>[\d,]+) tokens(?P<cut>; cut off for its length)?"
)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    scheduler = {"policy": "threshold", "threshold-tokens": THRESHOLD_TOKENS}
    description = two_sites(remote_workers=1, rate_mbit=200.0, scheduler=scheduler)
    async with Stack(description, tmp_path_factory.mktemp("stack")) as stack:
        yield stack


async def prfaas(stack: Stack, *arguments: str, typed: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "prfaas.cli", *arguments, "--url", stack.gateway_url(HOME)),
        env=os.environ | {"OPENAI_API_KEY": ""},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE_S):
        out, errors = await process.communicate(typed.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace"), errors.decode()


def told(errors: str) -> list[re.Match[str]]:
    found = [LAST_LINE.fullmatch(line) for line in errors.splitlines()]
    assert all(found), errors
    return [each for each in found if each]


async def test_a_long_file_is_prefilled_far_away_and_a_short_one_at_home(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "page.txt"
    file.write_text("Which way is the shortest? " * 60)
    status, out, errors = await prfaas(stack, "ask", str(file), "--question", "Well?", "--max-tokens", "8")
    assert status == 0, errors
    (line,) = told(errors)
    assert (line["site"], line["outcome"], line["answer"]) == (FAR, "offloaded", "8") and line["cut"]
    assert line["shipped"] not in ("0 B over the link", "nothing over a link")
    assert int(line["prompt"].replace(",", "")) > THRESHOLD_TOKENS
    assert out.strip()
    status, out, errors = await prfaas(stack, "ask", "-", "--max-tokens", "4", typed="abc")
    assert status == 0, errors
    (line,) = told(errors)
    assert (line["site"], line["shipped"]) == (HOME, "nothing over a link")


async def test_a_chat_has_its_history(stack: Stack) -> None:
    status, out, errors = await prfaas(stack, "chat", "--max-tokens", "4", typed="hello\n\nagain\n")
    assert status == 0, errors
    first, second = told(errors)
    assert int(second["prompt"]) > int(first["prompt"]) + len("again")
    assert out.strip()


async def test_a_refusal_is_one_sentence(stack: Stack) -> None:
    status, out, errors = await prfaas(stack, "chat", "--model", "unknown", typed="hello\n")
    assert (status, out) == (1, "")
    name = model_name(stack.description.model)
    assert errors == f"prfaas chat: The model `unknown` does not exist here; this endpoint serves `{name}`.\n"


async def test_tokens_of_a_text_are_those_that_its_answer_counts(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.gateway_url(HOME), timeout=DEADLINE_S, trust_env=False) as client:
        messages = [{"role": "user", "content": "Which way?"}]
        tokens = (await client.post("/tokenize", json={"messages": messages})).json()
        body = {"model": model_name(stack.description.model), "messages": messages, "max_tokens": 2}
        answer = (await client.post("/v1/chat/completions", json=body)).json()
        assert tokens["count"] == len(tokens["tokens"]) == answer["usage"]["prompt_tokens"]
        text = (await client.post("/detokenize", json={"tokens": tokens["tokens"]})).json()["prompt"]
        assert "Which way?" in text
        paths = (await client.get("/openapi.json")).json()["paths"]
        for path in paths:
            assert (await client.get(path.replace("{name}", body["model"]))).status_code != 404, path
