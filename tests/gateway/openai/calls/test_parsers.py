"""Calls in the texts of four families of models, however the text is cut into tokens."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.engine.grammar.forms import GrammarError, check
from prfaas_gateway.openai.calls.families import FAMILIES, family_of
from prfaas_gateway.openai.calls.pieces import Function
from tests.budget import examples
from tests.engine.grammar.following import answer, bytes_at
from tests.engine.grammar.random_schemas import random_schema
from tests.gateway.openai.calls.reading import NAMES, TIME, WEATHER, Read, cut, read

PARIS = {"city": "Paris", "days": 3}
QUOTED: dict[str, Any] = {"city": 'a "b" {c} [d] \\', "tags": [{"x": "}"}, []], "none": None, "é": 1.5}
MAX = sys.float_info.max
CASES: list[tuple[str, str, Read]] = [
    ("hermes", "Hello, world", Read("Hello, world", [])),
    ("hermes", "a < b <tool <tool_cal", Read("a < b <tool <tool_cal", [])),
    (
        "hermes",
        'Let me see.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>',
        Read("Let me see.", [("get_weather", PARIS)]),
    ),
    (
        "hermes",
        f'<tool_call>{{"arguments": {json.dumps(QUOTED)}, "name": "a"}}</tool_call>\n<tool_call>\n{{"name":"b"}}\n</tool_call>\n',
        Read("", [("a", QUOTED), ("b", {})]),
    ),
    (
        "hermes",
        f'<tool_call>{{"name": "a", "arguments": {json.dumps(json.dumps(QUOTED))}}}</tool_call> Done.',
        Read(" Done.", [("a", QUOTED)]),
    ),
    ("hermes", "<tool_call>no JSON</tool_call>", Read("<tool_call>no JSON</tool_call>", [])),
    ("hermes", '<tool_call>{"nam": 1}</tool_call> x', Read('<tool_call>{"nam": 1}</tool_call> x', [])),
    ("hermes", '<tool_call>x<tool_call>{"name": "b"}</tool_call>', Read("<tool_call>x", [("b", {})])),
    ("llama3_json", '{"name": "get_weather", "parameters": {"city": "Paris", "days": 3}}', Read("", [("get_weather", PARIS)])),
    (
        "llama3_json",
        '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris", "days": 3}}; '
        '{"name": "time.now", "parameters": {}}',
        Read("", [("get_weather", PARIS), ("time.now", {})]),
    ),
    ("llama3_json", '{"name": "Ada", "age": 36}', Read('{"name": "Ada", "age": 36}', [])),
    ("llama3_json", '{"answer": [1, 2]} is it', Read('{"answer": [1, 2]} is it', [])),
    ("llama3_json", "The answer is {42}.", Read("The answer is {42}.", [])),
    ("llama3_json", "<|pyth", Read("<|pyth", [])),
    (
        "mistral",
        'Sure. [TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}, {"name": "b", "arguments": {}}]',
        Read("Sure.", [("get_weather", PARIS), ("b", {})]),
    ),
    (
        "mistral",
        '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "days": 3}[TOOL_CALLS]b{"x": {}}',
        Read("", [("get_weather", PARIS), ("b", {"x": {}})]),
    ),
    ("mistral", "[1, 2, 3] [TOOL", Read("[1, 2, 3] [TOOL", [])),
    ("mistral", "[TOOL_CALLS] none", Read("[TOOL_CALLS] none", [])),
    (
        "pythonic",
        '[get_weather(city="Paris", days=3), time.now()]',
        Read("", [("get_weather", PARIS), ("time.now", {})]),
    ),
    (
        "pythonic",
        "[get_weather(city='x', more={'a': [true, None, -1]})]",
        Read("", [("get_weather", {"city": "x", "more": {"a": [True, None, -1]}})]),
    ),
    (
        "pythonic",
        r'[get_weather(city="\ud83d\ude00\/", days=1e999)]',
        Read("", [("get_weather", {"city": "😀\\/", "days": MAX})]),
    ),
    ("pythonic", "[1, 2]", Read("[1, 2]", [])),
    ("pythonic", "[unknown(x=1)]", Read("[unknown(x=1)]", [])),
    ("pythonic", "[get_weather(city=open('x'))]", Read("[get_weather(city=open('x'))]", [])),
    ("pythonic", "[get_weather(city=b'x')]", Read("[get_weather(city=b'x')]", [])),
    ("pythonic", "[get_weather(", Read("[get_weather(", [])),
    ("pythonic", "[" * 3000, Read("[" * 3000, [])),
    ("pythonic", "Hi [x]", Read("Hi [x]", [])),
]


@pytest.mark.parametrize(("name", "text", "found"), CASES)
def test_calls_are_found_and_the_rest_is_text(name: str, text: str, found: Read) -> None:
    assert read(FAMILIES[name], [text]) == found
    assert read(FAMILIES[name], text) == found, "character by character"


@settings(max_examples=examples(200))
@given(st.sampled_from(CASES), st.lists(st.integers(0, 1000), max_size=8))
def test_however_the_text_is_cut_the_same_is_found(case: tuple[str, str, Read], places: list[int]) -> None:
    name, text, found = case
    assert read(FAMILIES[name], cut(text, places)) == found


@settings(max_examples=examples(300))
@given(
    st.sampled_from(sorted(FAMILIES)),
    st.lists(st.sampled_from([*'{}[]":, \\na1(=', "<tool_call>", "</tool_call>", "[TOOL_CALLS]", '"name"', '"get_weather"'])),
)
def test_no_text_is_an_error_and_text_without_a_call_is_kept(name: str, parts: list[str]) -> None:
    parser = FAMILIES[name].parser(NAMES)
    pieces = [piece for part in parts for piece in parser.push(part)] + parser.flush()
    if all(isinstance(piece, str) for piece in pieces) and "<tool_call>" not in parts and "[TOOL_CALLS]" not in parts:
        assert "".join(map(str, pieces)).split() == "".join(parts).split()


@pytest.mark.parametrize("name", ["hermes", "llama3_json", "mistral"])
def test_arguments_come_before_a_call_is_whole(name: str) -> None:
    text = {"hermes": '<tool_call>{"name": "get_weather", "arguments": {"city": "Par'}
    text["llama3_json"] = text["hermes"].removeprefix("<tool_call>")
    text["mistral"] = '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Par'
    parser = FAMILIES[name].parser(NAMES)
    assert [*parser.push(text[name])] == [("get_weather",), ('{"city": "Par',)]


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("parallel", [False, True])
def test_an_answer_that_follows_a_familys_grammar_is_calls_and_nothing_else(tmp_path: Path, name: str, parallel: bool) -> None:
    tokenizer, family = bytes_at(tmp_path), FAMILIES[name]
    grammar = family.grammar([WEATHER, TIME], parallel=parallel)
    check(grammar)
    valid = {function.name: fastjsonschema.compile(function.parameters) for function in (WEATHER, TIME)}
    counts = set()
    for seed in range(30):
        found = read(family, answer(tokenizer, grammar, seed))
        assert found.text == ""
        for function, arguments in found.calls:
            valid[function](arguments)
        counts.add(len(found.calls))
    assert counts == {1} if not parallel else max(counts) > 1


def test_arguments_follow_random_schemas(tmp_path: Path) -> None:
    tokenizer = bytes_at(tmp_path)
    for seed in range(40):
        properties = {"x": random_schema(random.Random(seed))}
        schema = {"type": "object", "properties": properties, "required": ["x"], "additionalProperties": False}
        for family in FAMILIES.values():
            text = answer(tokenizer, family.grammar([Function("get_weather", schema, True)], parallel=False), seed)
            ((_, arguments),) = read(family, [text]).calls
            fastjsonschema.compile(schema)(arguments)


def test_what_cannot_be_written_in_python_is_refused() -> None:
    with pytest.raises(GrammarError, match="'a b' of the function 'f' cannot be an argument"):
        FAMILIES["pythonic"].grammar([Function("f", {"properties": {"a b": {}}}, True)], parallel=False)


@pytest.mark.parametrize(("template", "name"), [
    ("{% if tools %}<tool_call>{% endif %}", "hermes"),
    ("{% if tools %}[TOOL_CALLS]{% endif %}", "mistral"),
    ("{% if tools %}<|python_tag|>{% endif %}", "llama3_json"),
    ("{% if tools %}[func_name1(params_name1=1)]{% endif %}", "pythonic"),
    ("{% if tools %}<tool_call><function=f>{% endif %}", None),
    ("{% if tools %}{{ tools }}{% endif %}", None),
    ("<tool_call>", None),
    (None, None),
])  # fmt: skip
def test_the_chat_template_tells_the_family(template: str | None, name: str | None) -> None:
    family = family_of(template)
    assert (family and family.name) == name
