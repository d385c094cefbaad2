"""The API in the words of OpenAPI 3.1, made from the types of its bodies."""

from typing import Any, Final

import msgspec

from prfaas import __version__
from prfaas_gateway.anthropic.requests import CountTokensBody, MessagesBody
from prfaas_gateway.anthropic.types import Message, MessageErrorResponse, MessageEvent
from prfaas_gateway.openai.errors import ErrorResponse
from prfaas_gateway.openai.request_schemas import REFERENCE, Schema, request_schemas
from prfaas_gateway.openai.responses.requests import ResponsesBody
from prfaas_gateway.openai.responses.types import Response, ResponseEvent
from prfaas_gateway.openai.types import (
    AnswerBody,
    ChatChoice,
    ChatChunkChoice,
    ChatLogprob,
    ChatLogprobs,
    ChatRequest,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    CountTokensAnswer,
    DetokenizeAnswer,
    DetokenizeRequest,
    Model,
    ModelList,
    TokenizeAnswer,
    TokenizeChatRequest,
    TokenizeRequest,
    Version,
)


def _answer(name: str, choice: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Returns the type of the answers with one kind of choices."""
    fields = [
        (field.name, list[choice] if field.name == "choices" else field.type, field.default)  # type: ignore[valid-type]
        for field in msgspec.structs.fields(AnswerBody)
    ]
    return msgspec.defstruct(name, fields, kw_only=True)


CHAT_ANSWER: Final = _answer("ChatCompletion", ChatChoice)
CHAT_CHUNK: Final = _answer("ChatCompletionChunk", ChatChunkChoice)
COMPLETION_ANSWER: Final = _answer("Completion", CompletionChoice)
ANSWERS: Final = (
    CHAT_ANSWER, CHAT_CHUNK, COMPLETION_ANSWER, ModelList, Model, TokenizeAnswer, DetokenizeAnswer, Version, ErrorResponse,
    ChatLogprob, Response, ResponseEvent, Message, MessageEvent, CountTokensAnswer, MessageErrorResponse,
)  # fmt: skip
ENCODED: Final[dict[tuple[str, str], Schema]] = {
    (ChatLogprobs.__name__, "content"): {"type": "array", "items": {"$ref": REFERENCE.format(name=ChatLogprob.__name__)}},
    (CompletionLogprobs.__name__, "top_logprobs"): {
        "type": ["array", "null"],
        "items": {"type": "object", "additionalProperties": {"type": "number"}},
    },
}
"""Schemas of fields that the types have as encoded JSON."""
KEY: Final = "key"
"""Name of the API key among the ways to be known."""


def openapi_document(*, has_keys: bool, ignores_unknown: bool) -> dict[str, Any]:
    """Returns the document. `has_keys`: clients need API keys. `ignores_unknown`: unknown fields are no error."""
    _, answers = msgspec.json.schema_components(ANSWERS, ref_template=REFERENCE)
    for (name, field), schema in ENCODED.items():
        answers[name]["properties"][field] = schema
    components: dict[str, Any] = {"schemas": answers | request_schemas(ignores_unknown=ignores_unknown)}
    keyed: dict[str, Any] = {}
    if has_keys:
        components["securitySchemes"] = {KEY: {"type": "http", "scheme": "bearer"}}
        keyed = {"security": [{KEY: []}]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "prfaas", "version": __version__},
        "paths": _paths(keyed),
        "components": components,
    }


def _paths(keyed: dict[str, Any]) -> dict[str, Any]:
    """`keyed`: part of operations that need a key, where there are keys."""
    chat = _post("Answer a chat", _GENERATING, [ChatRequest], CHAT_ANSWER, CHAT_CHUNK)
    completion = _post("Continue a prompt", _GENERATING, [CompletionRequest], COMPLETION_ANSWER, COMPLETION_ANSWER)
    message = _post("Answer a chat", _GENERATING, [MessagesBody], Message, MessageEvent)
    count = _post("Count the tokens of a chat", _BOUNDED, [CountTokensBody], CountTokensAnswer)
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/v1/chat/completions": {"post": chat | keyed},
        "/v1/completions": {"post": completion | keyed},
        "/v1/responses": {"post": _post("Answer a chat", _GENERATING, [ResponsesBody], Response, ResponseEvent) | keyed},
        "/v1/messages": {"post": _in_anthropics_words(message) | keyed},
        "/v1/messages/count_tokens": {"post": _in_anthropics_words(count) | keyed},
        "/v1/models": {"get": _get("List the models that are served", _json(ModelList)) | keyed},
        "/v1/models/{name}": {"get": _get("Show one model", _json(Model)) | {"parameters": [name]} | keyed},
        "/tokenize": {
            "post": _post("Tokenize a text or a chat", _BOUNDED, [TokenizeRequest, TokenizeChatRequest], TokenizeAnswer) | keyed
        },
        "/detokenize": {"post": _post("Decode tokens", _BOUNDED, [DetokenizeRequest], DetokenizeAnswer) | keyed},
        "/version": {"get": _get("Tell the version", _json(Version))},
        "/openapi.json": {"get": _get("Tell this document", {"application/json": {"schema": {"type": "object"}}})},
        "/health": {"get": _get("Tell that the process is alive", _STATE)},
        "/ready": {"get": _get("Tell that requests are taken", _STATE, refused=_STATE)},
        "/metrics": {"get": _get("Tell metrics for Prometheus", {"text/plain": {"schema": {"type": "string"}}})},
    }


_STATE: Final = {"application/json": {"schema": {"type": "object", "additionalProperties": {"type": "string"}}}}


def _header(name: str, schema: Schema, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


_BOUNDED: Final = [
    _header("X-Request-ID", {"type": "string", "minLength": 1, "maxLength": 256}, "Comes back with the answer."),
    _header("x-prfaas-ttft-deadline-s", {"type": "number", "exclusiveMinimum": 0}, "Seconds until the answer begins."),
]
_GENERATING: Final = [*_BOUNDED, _header("x-prfaas-report", {"const": "1"}, "Adds `usage.prfaas`.")]


def _schema(kind: type[msgspec.Struct]) -> Schema:
    return {"$ref": REFERENCE.format(name=kind.__name__)}


def _json(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"application/json": {"schema": _schema(kind)}}


def _get(summary: str, content: dict[str, Any], refused: dict[str, Any] | None = None) -> dict[str, Any]:
    responses = {"200": {"description": "The answer.", "content": content}, "default": _error(refused)}
    return {"summary": summary, "responses": responses}


def _post(
    summary: str,
    headers: list[dict[str, Any]],
    bodies: list[type[msgspec.Struct]],
    answer: type[msgspec.Struct],
    chunk: type[msgspec.Struct] | None = None,
) -> dict[str, Any]:
    """`chunk`: data of each event of a stream, where answers may be streams."""
    body = _schema(bodies[0]) if len(bodies) == 1 else {"anyOf": [_schema(kind) for kind in bodies]}
    content = _json(answer)
    if chunk is not None:
        content |= {"text/event-stream": {"schema": _schema(chunk)}}
    return {
        "summary": summary,
        "parameters": headers,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "The answer.", "content": content}, "default": _error()},
    }


def _in_anthropics_words(operation: dict[str, Any]) -> dict[str, Any]:
    """Returns the operation with Anthropic's errors."""
    return operation | {"responses": operation["responses"] | {"default": _error(_json(MessageErrorResponse))}}


def _error(content: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": "The error.", "content": content or _json(ErrorResponse)}
