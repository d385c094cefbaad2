"""Types of the fields that ask for a form of the answer: OpenAI's `response_format`, vLLM's `structured_outputs`."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Choices = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=4096)]
Schema = dict[str, Any] | str | bool
"""A JSON schema, or one written as a JSON text."""


class JsonSchemaFormat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    schema: dict[str, Any] | bool | None = None
    """None: any object."""
    description: str | None = None
    strict: bool | None = None
    """Taken and of no consequence: the schema is always kept to."""


class ResponseFormat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """vLLM's: one of these, no more."""

    json: Schema | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    """Source in the notation of Lark or GBNF."""
