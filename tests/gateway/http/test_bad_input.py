"""Whatever comes over the wire gets an answer in OpenAI's shape, and the gateway goes on."""

import asyncio
import http.client
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from hypothesis import given, settings

from prfaas.secrets.tenants_file import Limits
from tests.budget import examples
from tests.gateway.bodies import bodies
from tests.gateway.conftest import Edge, make_tenants, running_edge
from tests.gateway.scripted_site import DEADLINE_S

GOOD = {"model": "tiny", "prompt": "hello"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path_factory.mktemp("edge"), max_body_bytes=100_000) as edge:
        yield edge


pytestmark = pytest.mark.asyncio(loop_scope="module")


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def still_works(edge: Edge) -> None:
    assert (await edge.post("/v1/completions", GOOD)).status_code == 200


@pytest.mark.parametrize(("body", "param", "code"), [
    (b"hello", None, None),
    (b'{"model": "\xff"}', None, None),
    (b"[" * 50_000, None, None),
    ({"model": "gpt-5", "prompt": "x"}, "model", "model_not_found"),
    ({**GOOD, "max_tokens": -1}, "max_tokens", "invalid_value"),
    ({**GOOD, "temperature": "hot"}, "temperature", "invalid_value"),
    ({**GOOD, "suffix": "x"}, "suffix", "unsupported_parameter"),
    ({**GOOD, "frobnicate": 2}, "frobnicate", "unknown_parameter"),
    ({**GOOD, "prompt": "hello " * 200}, "prompt", "context_length_exceeded"),
    ({**GOOD, "prompt": "hello " * 10_000}, "prompt", "context_length_exceeded"),
    ({**GOOD, "max_tokens": 99}, "prompt", "context_length_exceeded"),
    ({**GOOD, "prompt": []}, "prompt", "invalid_value"),
    ({**GOOD, "prompt": [1, 99]}, "prompt", "invalid_value"),
])  # fmt: skip
async def test_a_bad_body_is_answered_in_openais_shape(shared: Edge, body: Any, param: str | None, code: str | None) -> None:
    status = 404 if code == "model_not_found" else 400
    error = error_of(await shared.post("/v1/completions", body), status)
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    await still_works(shared)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_10_mb_is_refused_and_the_client_hears_it(shared: Edge, chunked: bool) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000

    async with httpx.AsyncClient(base_url=shared.url, timeout=DEADLINE_S, trust_env=False) as client:
        answer = await client.post("/v1/completions", content=parts() if chunked else b"x" * 10_000_000)
    assert error_of(answer, 413)["code"] == "request_too_large"
    await still_works(shared)


async def test_a_client_that_sends_all_before_it_reads_hears_it_too(shared: Edge) -> None:
    def ask() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=DEADLINE_S)
        try:
            connection.request("POST", "/v1/completions", b"x" * 10_000_000)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    status, body = await asyncio.to_thread(ask)
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")


async def test_the_openai_client_hears_it_too(shared: Edge) -> None:
    async with shared.openai() as client:
        with pytest.raises(openai.APIStatusError) as raises:
            await client.completions.create(model="tiny", prompt="x" * 10_000_000)
    assert raises.value.status_code == 413


@settings(max_examples=examples(60), deadline=None)
@given(bodies)
async def test_any_json_is_answered(shared: Edge, body: Any) -> None:
    for path in ("/v1/completions", "/v1/chat/completions"):
        answer = await shared.post(path, body)
        if answer.status_code != 200:
            assert error_of(answer, answer.status_code)["type"] == "invalid_request_error"
        assert answer.status_code in (200, 400, 404)


async def raw(edge: Edge, request: bytes) -> bytes:
    """All that comes back until the server closes, or has answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    try:
        writer.write(request)
        async with asyncio.timeout(DEADLINE_S):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")), 0)
            return head + await reader.readexactly(length)
    finally:
        writer.close()


HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"


async def test_a_declared_length_is_refused_before_the_body_comes(shared: Edge) -> None:
    answer = await raw(shared, HEAD + b"content-length: 10000000\r\nexpect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_an_endless_chunked_body_is_cut_off(shared: Edge) -> None:
    chunk = b"%x\r\n%b\r\n" % (50_000, b"x" * 50_000)
    assert (await raw(shared, HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk * 3)).startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_does_not_arrive_is_408(tmp_path: Path) -> None:
    async with running_edge(tmp_path, read_deadline_s=0.5) as edge:
        answer = await raw(edge, HEAD + b'content-length: 100\r\n\r\n{"model"')
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"] == "request_timeout"
        await still_works(edge)


@pytest.mark.parametrize("request_", [
    b"\x00\x01\x02\r\n\r\n",
    b"GET\r\n\r\n",
    HEAD + b"content-length: many\r\n\r\n",
    HEAD + b"content-length: -1\r\n\r\n",
    HEAD + b"transfer-encoding: chunked\r\n\r\nzzz\r\n",
])  # fmt: skip
async def test_what_is_no_http_is_refused_and_nothing_breaks(shared: Edge, request_: bytes) -> None:
    assert (await raw(shared, request_)).startswith(b"HTTP/1.1 400 ")
    await still_works(shared)


@pytest.mark.parametrize(("header", "value"), [
    ("x-prfaas-ttft-deadline-s", "soon"),
    ("x-prfaas-ttft-deadline-s", "-1"),
    ("x-prfaas-ttft-deadline-s", "0"),
    ("x-prfaas-ttft-deadline-s", "nan"),
    ("x-prfaas-ttft-deadline-s", "601"),
    ("x-request-id", "a" * 300),
    ("x-request-id", ""),
])  # fmt: skip
async def test_a_bad_header_is_named(shared: Edge, header: str, value: str) -> None:
    assert error_of(await shared.post("/v1/completions", GOOD, **{header: value}), 400)["param"] == header


async def test_a_compressed_body_is_refused(shared: Edge) -> None:
    assert "gzip" in error_of(await shared.post("/v1/completions", GOOD, content_encoding="gzip"), 400)["message"]


async def test_unknown_urls_and_methods(shared: Edge) -> None:
    assert error_of(await shared.get("/v2/models"), 404)["code"] == "unknown_url"
    assert error_of(await shared.get("/v1/completions"), 405)["code"] == "method_not_allowed"
    assert error_of(await shared.post("/v1/models", {}), 405)["code"] == "method_not_allowed"
    assert error_of(await shared.get("/v1/models/gpt-5"), 404)["code"] == "model_not_found"


async def test_api_keys(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"first": Limits(), "second": Limits()})
    first = keys["first"]
    changed = first[:-1] + ("A" if first[-1] != "A" else "B")
    wrong = ("Bearer wrong", f"Basic {first}", "Bearer", f"Bearer {changed}", f"Bearer {first}x", f"Bearer {first[:40]}")
    async with running_edge(tmp_path, tenants_file=path) as edge:
        for headers in ({}, *({"authorization": each} for each in wrong)):
            for answer in (await edge.post("/v1/completions", GOOD, **headers), await edge.get("/v1/models", **headers)):
                error = error_of(answer, 401)
                assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
                assert answer.headers["www-authenticate"] == "Bearer"
        for key in keys.values():
            async with edge.openai(api_key=key) as client:
                assert (await client.completions.create(model="tiny", prompt="x")).choices[0].text == "hello world"
                assert len((await client.models.list()).data) == 1
        tenants = [generate.tenant for generate in edge.site.generated]
        assert all(tenants) and len(set(tenants)) == 2, "each tenant has a label of its own, under which its KV crosses the link"
        assert not any(name in label for name in keys for label in tenants)
        # Nobody who may not ask gets to send a large body.
        assert error_of(await edge.post("/v1/completions", b"x" * 1_000_000), 401)["code"] == "invalid_api_key"
        for path in ("/health", "/ready", "/metrics"):
            assert (await edge.get(path)).status_code == 200
