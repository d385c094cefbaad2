"""Fields that ask for a form of the answer: which form they mean, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from prfaas.engine.grammar import forms
from prfaas.engine.grammar.forms import GrammarError, check
from prfaas_gateway.openai.answer_form import form_of
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.types import ChatRequest, CompletionRequest
from prfaas_gateway.openai.validation import parse_chat, parse_completion
from tests.engine.grammar.following import answer, bytes_at
from tests.gateway.bodies import HELLO

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"const": None}, "b": {"enum": [1, None]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def chat(**fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({"model": "m", "messages": HELLO, **fields}).encode())


def completion(**fields: Any) -> CompletionRequest:
    return parse_completion(json.dumps({"model": "m", "prompt": "hello", **fields}).encode())


def json_schema(schema: Any, **others: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, **others}}}


@pytest.mark.parametrize(
    ("fields", "param", "grammar"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format", forms.json_object()),
        (json_schema(SCHEMA, strict=True), "response_format.json_schema.schema", forms.json_schema(SCHEMA)),
        (json_schema(SCHEMA, strict=None, description=None), "response_format.json_schema.schema", forms.json_schema(SCHEMA)),
        (json_schema(None), "response_format.json_schema.schema", forms.json_object()),
        ({"structured_outputs": {"json": SCHEMA}}, "structured_outputs.json", forms.json_schema(SCHEMA)),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, "structured_outputs.json", forms.json_schema(SCHEMA)),
        ({"structured_outputs": {"json_object": True}}, "structured_outputs.json_object", forms.json_object()),
        ({"structured_outputs": {"regex": "a+", "choice": None}}, "structured_outputs.regex", forms.regex("a+")),
        ({"structured_outputs": {"choice": ["x", "y"]}}, "structured_outputs.choice", forms.choice(["x", "y"])),
        ({"structured_outputs": {"grammar": 'start: "x"'}}, "structured_outputs.grammar", forms.lark('start: "x"')),
        ({"guided_json": SCHEMA}, "guided_json", forms.json_schema(SCHEMA)),
        ({"guided_regex": "a+"}, "guided_regex", forms.regex("a+")),
        ({"guided_choice": ["x"]}, "guided_choice", forms.choice(["x"])),
        ({"guided_grammar": 'root ::= "x"'}, "guided_grammar", forms.notated('root ::= "x"')),
    ],
)
def test_a_form_on_both_endpoints(fields: dict[str, Any], param: str, grammar: str) -> None:
    for request in (chat(**fields), completion(**fields)):
        form = form_of(request)
        assert form is not None
        assert (form.param, form.make()) == (param, grammar)
        check(grammar)


@pytest.mark.parametrize("fields", [
    {}, {"response_format": {"type": "text"}}, {"response_format": {}}, {"structured_outputs": {}}, {"guided_json": {}},
    {"structured_outputs": {"json_object": False}}, {"structured_outputs": {"regex": None}}, {"guided_regex": None},
])  # fmt: skip
def test_no_form(fields: dict[str, Any]) -> None:
    assert form_of(chat(**fields)) is None


def test_a_null_in_a_schema_says_something(tmp_path: Path) -> None:
    form = form_of(chat(**json_schema(SCHEMA)))
    assert form is not None
    tokenizer = bytes_at(tmp_path)
    answers = [json.loads(answer(tokenizer, form.make(), seed)) for seed in range(10)]
    assert all(each["a"] is None for each in answers)
    assert {each["b"] for each in answers} == {1, None}


@pytest.mark.parametrize(("fields", "param", "code"), [
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
    ({"response_format": {"type": "structural_tag"}}, "response_format.type", "invalid_value"),
    ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema", "unknown_parameter"),
    (json_schema("text"), "response_format.json_schema.schema", "invalid_value"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "invalid_value"),
    ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "unknown_parameter"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice", "invalid_value"),
    ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex", "invalid_value"),
    ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos", "unsupported_value"),
    ({"guided_regex": "a", "min_tokens": 1}, "min_tokens", "unsupported_value"),
    ({"guided_decoding_backend": "xgrammar"}, "guided_decoding_backend", "unsupported_parameter"),
])  # fmt: skip
def test_what_is_refused_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as raised:
        form_of(chat(**fields))
    assert (raised.value.status, raised.value.body.param, raised.value.body.code) == (400, param, code)
    assert f"`{param}`" in raised.value.body.message


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 100_000])
def test_a_schema_as_a_text_that_is_none_cannot_be_made(text: str) -> None:
    form = form_of(chat(guided_json=text))
    assert form is not None
    with pytest.raises(GrammarError):
        form.make()
