"""Headers that clients and browsers rely on, on every response."""

from pathlib import Path

import httpx
import pytest

from prfaas.secrets.tenants_file import Limits
from tests.gateway.conftest import Edge, make_tenants, running_edge

ASK = {"model": "tiny", "prompt": "hello"}
PAGE = "https://chat.example.org"


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/health", 200), ("GET", "/metrics", 200), ("GET", "/v1/models", 200), ("GET", "/v1/models/none", 404),
    ("GET", "/nothing", 404), ("GET", "/v1/completions", 405), ("PUT", "/health", 405), ("POST", "/v1/completions", 400),
    ("OPTIONS", "/v1/completions", 405),
])  # fmt: skip
async def test_every_response_has_the_requests_id(edge: Edge, method: str, path: str, status: int) -> None:
    mine = await edge.http.request(method, path, headers={"x-request-id": "mine"})
    assert (mine.status_code, mine.headers.get_list("x-request-id")) == (status, ["mine"])
    made = {(await edge.http.request(method, path)).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2


async def test_an_id_that_cannot_be_echoed_is_replaced_and_named(edge: Edge) -> None:
    answer = await edge.post("/v1/completions", ASK, x_request_id="a" * 300)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-request-id")
    assert len(answer.headers["x-request-id"]) == 32
    assert len((await edge.get("/health", x_request_id="a" * 300)).headers["x-request-id"]) == 32


@pytest.mark.parametrize(("encoding", "status"), [
    ("identity", 200), ("Identity", 200), ("IDENTITY", 200), ("identity, identity", 200), ("", 200), ("gzip", 400),
    ("identity, br", 400),
])  # fmt: skip
async def test_a_body_in_no_encoding_is_read(edge: Edge, encoding: str, status: int) -> None:
    answer = await edge.post("/v1/completions", ASK, content_encoding=encoding)
    assert answer.status_code == status
    if status == 400:
        assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == ("content-encoding", "unsupported_value")


async def test_every_line_of_a_header_that_stands_twice_counts(edge: Edge) -> None:
    headers = [("content-encoding", "identity"), ("content-encoding", "gzip")]
    answer = await edge.http.post("/v1/completions", json=ASK, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "content-encoding")


async def preflight(edge: Edge, origin: str) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    return await edge.http.options("/v1/chat/completions", headers=headers)


async def test_pages_of_other_origins_may_not_call_by_default(edge: Edge) -> None:
    assert (await preflight(edge, PAGE)).status_code == 405
    assert "access-control-allow-origin" not in (await edge.post("/v1/completions", ASK, origin=PAGE)).headers


async def test_pages_of_the_configured_origins_may(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"page": Limits(requests_per_minute=100)})
    async with running_edge(tmp_path, cors_origins=(PAGE,), tenants_file=path) as edge:
        allowed = await preflight(edge, PAGE)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        assert "x-request-id" in allowed.headers
        assert (await preflight(edge, "https://elsewhere.example.org")).status_code == 400
        for stream in (False, True):
            answer = await edge.post(
                "/v1/completions", {**ASK, "stream": stream}, origin=PAGE, authorization=f"Bearer {keys['page']}"
            )
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
            exposed = answer.headers["access-control-expose-headers"]
            assert "x-request-id" in exposed and "x-ratelimit-remaining-requests" in exposed
            assert "hello" in answer.text or "hel" in answer.text
        for error in (await edge.post("/v1/completions", ASK, origin=PAGE), await edge.get("/nothing", origin=PAGE)):
            assert error.status_code in (401, 404) and error.headers["access-control-allow-origin"] == PAGE
