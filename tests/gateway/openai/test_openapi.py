"""The document at `/openapi.json` has every endpoint, and takes every request that the gateway takes."""

import json
from typing import Any

import fastjsonschema
import pytest
from hypothesis import example, given, settings
from starlette.routing import Route

from prfaas_gateway.dialects import DIALECTS, TOKENIZING_PARSERS
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.unknown_fields import UnknownFields
from tests.budget import examples
from tests.gateway.bodies import HELLO, bodies
from tests.gateway.conftest import Edge
from tests.gateway.documented import answer_check, document, request_check

PATHS = {
    "/v1/chat/completions": DIALECTS["chat.completions"].parse,
    "/v1/completions": DIALECTS["completions"].parse,
    "/v1/responses": DIALECTS["responses"].parse,
    "/v1/messages": DIALECTS["messages"].parse,
    "/v1/messages/count_tokens": TOKENIZING_PARSERS["messages.count_tokens"],
    "/tokenize": TOKENIZING_PARSERS["tokenize"],
    "/detokenize": TOKENIZING_PARSERS["detokenize"],
}
CHAT: Any = {"model": "m", "messages": HELLO}


async def test_no_endpoint_is_missing_and_none_is_there_that_the_router_has_not(edge: Edge) -> None:
    answer = await edge.get("/openapi.json")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    told = {(path, method.upper()) for path, item in answer.json()["paths"].items() for method in item}
    app: Any = edge.service.app([])
    routes = [route for route in app.routes if isinstance(route, Route) and not route.path.startswith("/console")]
    has = {(route.path.replace(":path", ""), method) for route in routes for method in route.methods or () if method != "HEAD"}
    of_every_process = {(path, "GET") for path in ("/health", "/ready", "/metrics")}
    assert told == has | of_every_process
    for path, method in told:
        url = path.replace("{name}", "tiny")
        found = await (edge.get(url) if method == "GET" else edge.post(url, {}))
        assert found.status_code not in (404, 405), path
        if found.status_code == 200 and path != "/metrics":
            answer_check(path, method.lower())(found.json())


async def test_it_says_whether_there_are_keys(edge: Edge) -> None:
    assert "securitySchemes" not in (await edge.get("/openapi.json")).json()["components"]
    keyed = {path for path, item in document()["paths"].items() if any("security" in each for each in item.values())}
    assert keyed == {*PATHS, "/v1/models", "/v1/models/{name}"}


def refers_to(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(refers_to, value)) if value else set()
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(refers_to, value.values()))
    return set()


def test_every_reference_leads_to_a_schema_and_every_schema_is_referred_to() -> None:
    schemas = document()["components"]["schemas"]
    assert refers_to(document()) == {f"#/components/schemas/{name}" for name in schemas}


@pytest.mark.parametrize("ignores_unknown", [False, True])
@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=examples(300), deadline=None)
@given(body=bodies)
@example(body=CHAT | {"tools": [], "tool_choice": "auto", "logprobs": None, "n": 1.0, "metadata": {}, "echo": False})
@example(body={"model": "m", "prompt": [[1, 2], [3.0]], "logprobs": False, "guided_json": "", "best_of": 1e0})
@example(
    body={"model": "m", "input": [HELLO[0] | {"type": "message"}], "include": ["reasoning.encrypted_content"], "store": False}
)
@example(body=CHAT | {"max_tokens": 1, "thinking": {"type": "disabled"}, "system": [], "metadata": {"user_id": None}})
@example(body=CHAT | {"tool_choice": {"type": "auto"}, "cache_control": {}, "mcp_servers": []})
@example(body={"prompt": None, "messages": HELLO, "strange": None})
def test_a_request_that_is_taken_is_valid(path: str, ignores_unknown: bool, body: Any) -> None:
    text = json.dumps(body).encode()
    try:
        PATHS[path](text, UnknownFields() if ignores_unknown else None)
    except ApiError:
        return
    request_check(path, ignores_unknown)(json.loads(text))


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/chat/completions", {"model": "m"}),
    ("/v1/chat/completions", CHAT | {"strange": 1}),
    ("/v1/chat/completions", CHAT | {"echo": True}),
    ("/v1/chat/completions", CHAT | {"temperature": 3}),
    ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    ("/v1/completions", {"model": "m", "prompt": 1}),
    ("/v1/responses", {"model": "m", "input": []}),
    ("/v1/responses", {"model": "m", "input": "x", "store": True}),
    ("/v1/responses", {"model": "m", "input": "x", "stream_options": {"include_usage": True}}),
    ("/v1/messages", CHAT),
    ("/v1/messages", CHAT | {"max_tokens": 1, "thinking": {"type": "enabled"}}),
    ("/v1/messages/count_tokens", CHAT | {"max_tokens": 1}),
    ("/tokenize", {"prompt": "x", "messages": HELLO}),
    ("/detokenize", {"tokens": ["x"]}),
])  # fmt: skip
def test_a_request_that_is_refused_for_its_fields_is_not_valid(path: str, body: Any) -> None:
    with pytest.raises(ApiError):
        PATHS[path](json.dumps(body).encode(), None)
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        request_check(path)(body)
