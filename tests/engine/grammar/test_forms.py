"""Grammars from what clients send, and refusals of those that cannot be used."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import fastjsonschema
import pytest

from prfaas.engine.grammar import forms
from prfaas.engine.grammar.forms import MAX_GRAMMAR_BYTES, GrammarError, check
from tests.engine.grammar.following import answer, bytes_at
from tests.engine.grammar.random_schemas import random_schema

SEEDS_A_SCHEMA = 3


def test_answers_follow_two_hundred_random_schemas(tmp_path: Path) -> None:
    tokenizer = bytes_at(tmp_path)
    for seed in range(200):
        schema = random_schema(random.Random(seed))
        grammar = forms.json_schema(schema)
        check(grammar)
        valid = fastjsonschema.compile(schema)
        for attempt in range(SEEDS_A_SCHEMA):
            text = answer(tokenizer, grammar, attempt)
            try:
                valid(json.loads(text))
            except (ValueError, fastjsonschema.JsonSchemaException) as error:
                raise AssertionError(f"seed {seed}: {text!r} does not follow {json.dumps(schema)}") from error


def test_any_object_may_be_asked_for(tmp_path: Path) -> None:
    tokenizer = bytes_at(tmp_path)
    assert all(isinstance(json.loads(answer(tokenizer, forms.json_object(), seed)), dict) for seed in range(20))


def test_a_schema_may_be_true(tmp_path: Path) -> None:
    json.loads(answer(bytes_at(tmp_path), forms.json_schema(True), 1))


def test_a_regular_expression_is_followed(tmp_path: Path) -> None:
    tokenizer = bytes_at(tmp_path)
    texts = {answer(tokenizer, forms.regex(r"[ab]{2}(c|dé)"), seed) for seed in range(40)}
    assert len(texts) > 3
    assert all(re.fullmatch(r"[ab]{2}(c|dé)", text) for text in texts)


def test_a_choice_is_followed_whatever_its_texts_hold(tmp_path: Path) -> None:
    tokenizer = bytes_at(tmp_path)
    texts = ['say "no"', "back\\slash", "line\nbreak", "größe"]
    assert {answer(tokenizer, forms.choice(texts), seed) for seed in range(60)} == set(texts)


@pytest.mark.parametrize("source", ['start: "x" /[0-9]+/ "y"', 'root ::= "x" [0-9]+ "y"'])
def test_a_grammar_is_followed_in_either_notation(tmp_path: Path, source: str) -> None:
    grammar = forms.notated(source)
    check(grammar)
    assert re.fullmatch("x[0-9]+y", answer(bytes_at(tmp_path), grammar, 1))


def test_blanks_between_parts_have_a_bound(tmp_path: Path) -> None:
    matcher = bytes_at(tmp_path).matcher(forms.json_object())
    for byte in b"{" + b" " * 40:
        matcher.take(byte)
    with pytest.raises(GrammarError, match="cannot be followed"):
        matcher.take(ord(" "))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: forms.json_schema({"type": "strin"}), "cannot be used: Invalid type: strin"),
        (lambda: forms.json_schema({"not": {"type": "string"}}), r'cannot be used: Unimplemented keys: \["not"\]'),
        (lambda: forms.json_schema({"$ref": "https://example.org/a.json"}), "cannot be used: Resource"),
        (lambda: forms.json_schema(False), "cannot be used: Unsatisfiable schema"),
        (lambda: forms.regex("(a"), "cannot be used: .*regex"),
        (lambda: forms.lark("start: other"), 'cannot be used: .*unknown name: "other"'),
        (lambda: forms.notated("(((("), "is neither Lark nor GBNF"),
        (lambda: forms.notated('root ::= "' + "a" * MAX_GRAMMAR_BYTES + '"'), "has more than"),
        (lambda: forms.json_schema({"enum": ["a" * MAX_GRAMMAR_BYTES]}), "is too large"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(make: Callable[[], str], says: str) -> None:
    with pytest.raises(GrammarError, match=says):
        check(make())


def test_a_lenient_schema_leaves_out_what_a_grammar_cannot_hold() -> None:
    check(forms.json_schema({"type": "object", "not": {"required": ["x"]}}, lenient=True))


def test_a_schema_that_asks_to_be_lenient_is_not() -> None:
    with pytest.raises(GrammarError, match="Unimplemented"):
        check(forms.json_schema({"not": {}, "x-guidance": {"lenient": True}}))
