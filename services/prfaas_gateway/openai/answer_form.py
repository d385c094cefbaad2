"""Form that a client asks its answer to have, as a grammar."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec

from prfaas.contracts.codes import FailureCode
from prfaas.engine.grammar import forms
from prfaas.engine.grammar.forms import GrammarError
from prfaas_gateway.openai.errors import invalid
from prfaas_gateway.openai.structured import ResponseFormat, Schema, StructuredOutputs
from prfaas_gateway.openai.types import GenerationRequest


@dataclass(frozen=True)
class Form:
    """Form of an answer, and the field that asks for it."""

    param: str
    make: Callable[[], str]
    """Returns the grammar, which may take a while. Raises GrammarError."""


GUIDED: Final = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}
"""vLLM's older spelling of the members of `structured_outputs`."""


def form_of(request: GenerationRequest) -> Form | None:
    """Raises ApiError for more than one form, and for fields that contradict it."""
    asked: list[Form] = []
    if (format := request.response_format) is not None and (form := _of_format(format)) is not None:
        asked.append(form)
    if request.structured_outputs is not None:
        members = _said(request.structured_outputs)
        asked += [_of_member(name, value, f"structured_outputs.{name}") for name, value in members.items()]
    for param, name in GUIDED.items():
        if (value := getattr(request, param)) is not None:
            asked.append(_of_member(name, value, param))
    if len(asked) > 1:
        message = f"`{asked[0].param}` and `{asked[1].param}` each ask for a form of the answer; it can have one."
        raise invalid(message, asked[1].param, FailureCode.INVALID_VALUE)
    for form in asked:
        check_ends(request, form.param)
    return asked[0] if asked else None


def check_ends(request: GenerationRequest, param: str) -> None:
    """Raises ApiError where a request says how long an answer is whose form says where it ends."""
    for name, said in (("ignore_eos", request.ignore_eos), ("min_tokens", request.min_tokens)):
        if said:
            message = f"`{name}` contradicts `{param}`: the form of the answer says where it ends."
            raise invalid(message, name, FailureCode.UNSUPPORTED_VALUE)


def _of_format(format: ResponseFormat) -> Form | None:
    if format.type == "text":
        return None
    if format.type == "json_object":
        return Form("response_format", forms.json_object)
    if format.json_schema is None:
        message = "Missing required parameter: `response_format.json_schema`, which the type `json_schema` needs."
        raise invalid(message, "response_format.json_schema", FailureCode.MISSING_REQUIRED_PARAMETER)
    schema = format.json_schema.schema
    where = "response_format.json_schema.schema"
    return Form(where, forms.json_object if schema is None else partial(forms.json_schema, schema))


def _of_member(name: str, value: Any, param: str) -> Form:
    match name:
        case "json":
            return Form(param, partial(_json_schema, value))
        case "json_object":
            return Form(param, forms.json_object)
        case "regex":
            return Form(param, partial(forms.regex, value))
        case "choice":
            return Form(param, partial(forms.choice, value))
        case _:
            return Form(param, partial(forms.notated, value))


def _said(outputs: StructuredOutputs) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(outputs).items() if value not in (None, False) or value == ""}


def _json_schema(schema: Schema) -> str:
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise GrammarError(f"is no JSON: {error}") from error
        if not isinstance(schema, dict | bool):
            raise GrammarError("is no JSON schema: expected is an object, or true")
    return forms.json_schema(schema)
