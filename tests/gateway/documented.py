"""Requests and answers, held against what `/openapi.json` says of them."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import fastjsonschema
import httpx

from prfaas_gateway.openai.openapi import openapi_document

Check = Callable[[Any], Any]
JSON = "application/json"
STREAM = "text/event-stream"


@cache
def document(ignores_unknown: bool = False) -> dict[str, Any]:
    found = json.loads(json.dumps(openapi_document(has_keys=True, ignores_unknown=ignores_unknown)))
    assert isinstance(found, dict)
    return found


@cache
def request_check(path: str, ignores_unknown: bool = False) -> Check:
    body = document(ignores_unknown)["paths"][path]["post"]["requestBody"]["content"][JSON]["schema"]
    return _compiled(body, document(ignores_unknown))


@cache
def answer_check(path: str, method: str, kind: str = JSON) -> Check:
    return _compiled(document()["paths"][path][method]["responses"]["200"]["content"][kind]["schema"], document())


@cache
def error_check() -> Check:
    return _compiled({"$ref": "#/components/schemas/ErrorResponse"}, document())


def _compiled(schema: Any, of: dict[str, Any]) -> Check:
    # Only what it needs of the document: whatever has `type` looks like a schema.
    check: Check = fastjsonschema.compile({"allOf": [schema], "components": of["components"]}, use_default=False)
    return check


def check_exchange(path: str, body: bytes, answer: httpx.Response) -> None:
    """Raises JsonSchemaException where a request that was answered, or its answer, is not as documented."""
    if path not in document()["paths"]:
        return
    if answer.status_code != 200:
        error_check()(answer.json())
        return
    request_check(path)(json.loads(body))
    if answer.headers["content-type"].startswith(JSON):
        answer_check(path, "post")(answer.json())
        return
    for line in answer.text.splitlines():
        if line.startswith("data: {") and not line.startswith('data: {"error"'):
            answer_check(path, "post", STREAM)(json.loads(line.removeprefix("data: ")))
