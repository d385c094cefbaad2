"""Huge bodies: refused before the expense, read in a process of their own, and never in the way of others."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from prfaas.contracts.wire import unpack_tokens
from prfaas_gateway.large_requests import LARGE_BODY_BYTES
from tests.gateway.conftest import Edge, running_edge, until
from tests.gateway.tiny_tokenizer import BOS, WORDS

GOOD = {"model": "tiny", "prompt": "hello"}
FILL = " " * (LARGE_BODY_BYTES + 1)
"""The tokenizer of these tests drops spaces, so a large body may be a short prompt."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path_factory.mktemp("edge")) as edge:
        edge.http.timeout = 60
        yield edge


@pytest.mark.parametrize(("path", "body", "expected"), [
    ("/v1/completions", {"model": "tiny", "prompt": "hello" + FILL}, [BOS, WORDS.index("hello")]),
    ("/v1/completions", {"model": "tiny", "prompt": [5, 6], "user": FILL}, [5, 6]),
    ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "hello" + FILL}]},
     [BOS, *(WORDS.index(word) for word in ("user", ":", "hello", "A", ":"))]),
])  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
async def test_a_large_request_is_answered_as_a_small_one(
    shared: Edge, path: str, body: Any, expected: list[int], stream: bool
) -> None:
    shared.site.generated.clear()
    answer = await shared.post(path, {**body, "stream": stream, "seed": 3})
    assert answer.status_code == 200, answer.text
    (generate,) = shared.site.generated
    assert unpack_tokens(generate.token_ids) == expected
    assert generate.sampling.seed == 3


def of_4_mib(start: bytes, item: bytes, end: bytes) -> bytes:
    count = (4 * 2**20 - len(start) - len(end)) // (len(item) + 1)
    return start + b",".join([item] * count) + end


@pytest.mark.slow
@pytest.mark.parametrize(("path", "body", "param", "code"), [
    ("/v1/completions", {"model": "tiny", "prompt": "hello " * 200_000}, "prompt", "context_length_exceeded"),
    ("/v1/completions", of_4_mib(b'{"model":"tiny","prompt":[', b"3", b"]}"), "prompt", "context_length_exceeded"),
    ("/v1/completions", of_4_mib(b'{"model":"tiny","prompt":[', b"[]", b"]}"), "prompt", "invalid_value"),
    ("/v1/completions", of_4_mib(b'{"model":"tiny","prompt":"x","stop":[', b'"x"', b"]}"), "stop", "invalid_value"),
    ("/v1/completions", {"model": "nope", "prompt": FILL}, "model", "model_not_found"),
    ("/v1/completions", b"[" * 3_000_000, None, None),
    ("/v1/completions", b"\xff" * 3_000_000, None, None),
    ("/v1/chat/completions", of_4_mib(b'{"model":"tiny","messages":[', b'{"role":"user","content":"x"}', b"]}"), "messages",
     "context_length_exceeded"),
    ("/v1/chat/completions", of_4_mib(b'{"model":"tiny","messages":[', b"{}", b"]}"), "messages[0].role",
     "missing_required_parameter"),
    ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "system", "content": "hello " * 200_000}]}, "messages",
     "context_length_exceeded"),
    ("/v1/chat/completions", of_4_mib(b'{"model":"tiny","messages":[{"role":"user","content":[', b'{"type":"text","text":"Q"}',
     b"]}]}"), "messages", None),
])  # fmt: skip
async def test_a_huge_body_is_refused_by_name(shared: Edge, path: str, body: Any, param: str | None, code: str | None) -> None:
    answer = await shared.post(path, body)
    if code is None and param == "messages":
        assert answer.status_code == 200, "one unknown word is one token, however long"
        return
    assert answer.status_code == (404 if code == "model_not_found" else 400)
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert (await shared.post("/v1/completions", GOOD)).status_code == 200


@pytest.mark.slow
async def test_small_requests_are_answered_while_large_ones_are_read(tmp_path: Path) -> None:
    async with running_edge(tmp_path) as edge:
        edge.http.timeout = 60
        body = json.dumps({"model": "tiny", "prompt": "hello " * 100_000})
        large = [asyncio.create_task(edge.http.post("/v1/completions", content=body)) for _ in range(8)]
        await until(lambda: edge.service.requests_running == 8)
        for _ in range(3):
            assert (await edge.get("/health")).status_code == 200
            assert (await edge.post("/v1/completions", GOOD)).status_code == 200
        assert not all(task.done() for task in large), "they still are read"
        assert {(await task).status_code for task in large} == {400}


async def test_a_large_request_past_its_deadline_is_told_so_and_the_next_one_is_read(shared: Edge) -> None:
    body = json.dumps({"model": "tiny", "prompt": "hello " * 100_000})
    answer = await shared.http.post("/v1/completions", content=body, headers={"x-prfaas-ttft-deadline-s": "0.001"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "deadline")
    assert (await shared.post("/v1/completions", {"model": "tiny", "prompt": "hello" + FILL})).status_code == 200


async def test_a_request_that_ends_the_process_fails_alone(tmp_path: Path) -> None:
    async with running_edge(tmp_path) as edge:
        edge.http.timeout = 60
        body = json.dumps({"model": "tiny", "prompt": "hello " * 100_000})
        reader = edge.service._large_requests
        assert reader is not None
        asking = asyncio.create_task(edge.http.post("/v1/completions", content=body))
        await until(lambda: reader._process is not None)
        assert reader._process is not None
        os.kill(reader._process.pid, signal.SIGKILL)
        answer = await asking
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert (await edge.post("/v1/completions", {"model": "tiny", "prompt": "hello" + FILL})).status_code == 200
