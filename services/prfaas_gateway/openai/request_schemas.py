"""JSON schemas of requests: those of their types, and with them all that a request may have besides."""

from typing import Any, Final

import msgspec

from prfaas_gateway.anthropic import unsupported as anthropic
from prfaas_gateway.anthropic.requests import CountTokensBody, MessagesBody
from prfaas_gateway.openai.fields import FORMS, INERT
from prfaas_gateway.openai.responses import unsupported as responses
from prfaas_gateway.openai.responses.requests import ResponsesBody, ResponsesStreamOptions
from prfaas_gateway.openai.tokenizing import UNSUPPORTED_IN_TOKENIZE
from prfaas_gateway.openai.types import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    StreamOptions,
    TextPart,
    TokenizeChatRequest,
    TokenizeRequest,
)
from prfaas_gateway.openai.unsupported import (
    ALSO_NEUTRAL,
    NEVER,
    OF_CHATS,
    UNSUPPORTED,
    UNSUPPORTED_IN_CHAT,
    UNSUPPORTED_IN_MESSAGE,
    UNSUPPORTED_IN_PART,
    UNSUPPORTED_IN_STREAM_OPTIONS,
)

Schema = dict[str, Any]

REQUESTS: Final = (
    CompletionRequest, ChatRequest, ResponsesBody, MessagesBody, CountTokensBody, TokenizeRequest, TokenizeChatRequest,
    DetokenizeRequest,
)  # fmt: skip
REFERENCE: Final = "#/components/schemas/{name}"
_NULL: Final[Schema] = {"type": "null"}
_OF_NULLS: Final[Schema] = {"type": "object", "additionalProperties": _NULL}
"""An object without anything in it, since nulls count as absent."""
_NOTHING: Final[tuple[Any, ...]] = ("", [], {})
"""Values that ask for nothing, whatever the field."""
_NOT_SERVED: Final[dict[str, dict[str, Any]]] = {
    CompletionRequest.__name__: UNSUPPORTED | OF_CHATS,
    ChatRequest.__name__: UNSUPPORTED | UNSUPPORTED_IN_CHAT,
    TokenizeRequest.__name__: UNSUPPORTED_IN_TOKENIZE,
    TokenizeChatRequest.__name__: UNSUPPORTED_IN_TOKENIZE,
    ChatMessage.__name__: UNSUPPORTED_IN_MESSAGE,
    TextPart.__name__: UNSUPPORTED_IN_PART,
    StreamOptions.__name__: UNSUPPORTED_IN_STREAM_OPTIONS,
    ResponsesBody.__name__: responses.UNSUPPORTED,
    ResponsesStreamOptions.__name__: responses.UNSUPPORTED_IN_STREAM_OPTIONS,
    MessagesBody.__name__: anthropic.UNSUPPORTED,
    CountTokensBody.__name__: anthropic.UNSUPPORTED,
}
"""Fields that are taken with a value that asks for nothing, by the schema that they belong to."""

_INERT: Final[dict[str, dict[str, Any]]] = {
    ResponsesBody.__name__: responses.INERT,
    MessagesBody.__name__: anthropic.INERT,
    CountTokensBody.__name__: anthropic.INERT,
}
"""Fields without effect of bodies that have others than INERT."""


def request_schemas(*, ignores_unknown: bool) -> dict[str, Schema]:
    """Returns the schemas of REQUESTS and of the types in them, by name."""
    _, schemas = msgspec.json.schema_components(REQUESTS, ref_template=REFERENCE)
    bodies = {kind.__name__ for kind in REQUESTS}
    return {name: _of_object(name, schema, name in bodies, ignores_unknown) for name, schema in schemas.items()}


def _of_object(name: str, schema: Schema, is_body: bool, ignores_unknown: bool) -> Schema:
    fields: dict[str, Schema] = {}
    for field, its in schema["properties"].items():
        # A null counts as absent, which a required field cannot be.
        others: list[Schema] = [] if field in schema.get("required", ()) else [_NULL]
        if is_body and field in FORMS:
            others.append({"enum": list(_NOTHING)})
        if name == CompletionRequest.__name__ and field == "logprobs":
            others.append({"const": False})
        fields[field] = _or(_with_null_entries(its), others)
    for field, neutral in _NOT_SERVED.get(name, {}).items():
        values = [*([] if neutral is NEVER else [neutral]), *ALSO_NEUTRAL.get(field, ()), *_NOTHING, None]
        its = {"anyOf": [{"enum": _unlike(values)}, _OF_NULLS]}
        fields[field] = its | {"description": "Not served: taken where it asks for nothing."}
    if is_body:
        for field, kind in _INERT.get(name, INERT).items():
            its = _with_null_entries(msgspec.json.schema(kind))
            fields[field] = _or(its, [_NULL]) | {"description": "Without effect."}
    # A null counts as absent, whatever its name.
    return schema | {"properties": fields, "additionalProperties": True if ignores_unknown else _NULL}


def _with_null_entries(schema: Schema) -> Schema:
    """Returns the schema of a map whose entries may be null, and so absent, too; any other schema as it is."""
    if not isinstance(entry := schema.get("additionalProperties"), dict):
        return schema
    return schema | {"additionalProperties": _or(entry, [_NULL])}


def _or(schema: Schema, others: list[Schema]) -> Schema:
    """Returns a schema of a value that may also be one of others. What is said of the field stays outside."""
    said = {name: schema[name] for name in ("default", "description") if name in schema}
    own = {name: value for name, value in schema.items() if name not in said}
    members = own["anyOf"] if own.keys() == {"anyOf"} else [own]
    members = [*members, *(other for other in others if other not in members)]
    return (own if len(members) == 1 else {"anyOf": members}) | said


def _unlike(values: list[Any]) -> list[Any]:
    """Returns each value once. JSON's true is not its 1, though Python's is."""
    found: dict[str, Any] = {}
    for value in values:
        found.setdefault(msgspec.json.encode(value).decode(), value)
    return list(found.values())
