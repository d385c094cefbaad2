import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from prfaas.contracts.codes import (
    FALLBACK_OUTCOMES,
    GOOD_ENDS,
    REQUEST_FAULTS,
    RETRY_STATUSES,
    FailureCode,
    markdown_table,
)
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_gateway import Failed
from prfaas.contracts.wire import decode, encode
from tests.source_tree import parsed

ROOT = Path(__file__).parents[2]
WIRE = {
    "INVALID_REQUEST": "invalid_request",
    "CONTEXT_LENGTH_EXCEEDED": "context_length_exceeded",
    "OVERLOADED": "overloaded",
    "TIMEOUT": "timeout",
    "WORKER_LOST": "worker_lost",
    "MAX_DELIVERIES": "max_deliveries",
    "BAD_MESSAGE": "bad_message",
}


def test_a_code_travels_as_its_spelling() -> None:
    failed = Failed(request_id="r", sequence=0, code=FailureCode.CORRUPT, message="m")
    assert b"corrupt" in encode(failed)
    assert decode(encode(failed), Failed).code == FailureCode.CORRUPT
    assert {name: FailureCode[name].value for name in WIRE} == WIRE
    assert all(code.value == code.name.lower() for code in FailureCode)


def test_a_code_of_another_version_decodes_and_is_in_no_set() -> None:
    strange = decode(encode(Failed(request_id="r", sequence=0, code="of_next_year", message="m")), Failed).code
    assert strange == "of_next_year"
    assert not any(strange in known for known in (REQUEST_FAULTS, GOOD_ENDS, FALLBACK_OUTCOMES))


def test_text_from_the_wire_is_found_in_the_sets() -> None:
    assert decode(encode("cache_too_small"), str) in REQUEST_FAULTS
    assert FALLBACK_OUTCOMES[decode(encode("expired"), str)] is Outcome.FALLBACK_TIMEOUT
    assert FALLBACK_OUTCOMES[decode(encode("broker"), str)] is Outcome.FALLBACK_BROKER
    assert {"stop", "length", "cancelled"} == GOOD_ENDS


def test_what_ran_out_of_time_falls_back_as_a_timeout() -> None:
    timeouts = {code for code, outcome in FALLBACK_OUTCOMES.items() if outcome is Outcome.FALLBACK_TIMEOUT}
    assert timeouts == {FailureCode.TIMEOUT, FailureCode.EXPIRED}


@pytest.mark.parametrize("code", FailureCode)
def test_each_code_says_what_happened_and_what_a_client_makes_of_it(code: FailureCode) -> None:
    assert code.happened and code.said_by
    assert all(400 <= status < 600 for status in code.statuses)
    assert code.retry is bool(RETRY_STATUSES & set(code.statuses))
    assert (code in REQUEST_FAULTS) <= (code.statuses == (400,))


def test_the_table_of_the_api_page_is_what_the_module_prints() -> None:
    page = (ROOT / "docs/api.md").read_text()
    assert markdown_table() in page, "put what `python -m prfaas.contracts.codes` prints into docs/api.md, under Errors"


def _is_code(node: ast.expr) -> bool:
    return (node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")) in ("code", "error_code")


def spelled_codes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """String literals in places where a failure code is meant."""
    spellings = {code.value for code in FailureCode}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    events = {call.args[0] for call in calls if ast.unparse(call.func).lstrip("_").startswith("log.")}
    for node in ast.walk(tree):
        literals: list[ast.expr | None] = []
        match node:
            case ast.Constant(value=str() as text) if "_" in text and node not in events:
                literals = [node]
            case ast.keyword(arg="code", value=value):
                literals = [value]
            case ast.Compare(left=left, comparators=rights) if any(map(_is_code, [left, *rights])):
                literals = [left, *rights]
            case ast.Call(func=ast.Name(id="Refusal" | "Refuse" | "RemoteError" | "TransferError"), args=args):
                literals = [*args[:2]]
        for literal in literals:
            if isinstance(literal, ast.Constant) and literal.value in spellings:
                yield literal.lineno, literal.value


def test_the_enum_is_the_only_place_that_spells_a_code() -> None:
    found = []
    for folder in ("services", "shared", "infra", "load"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name != "codes.py":
                found += [f"{path.relative_to(ROOT)}:{line}: {text!r}" for line, text in spelled_codes(parsed(path.read_text()))]
    assert not found


def test_the_search_finds_a_spelled_code() -> None:
    source = """
f(code="engine")
x.code == "timeout"
Refusal("draining", "m")
raise_it("no_answer")
keys["engine"]
log.info("no_answer")
"""
    assert [text for _, text in sorted(spelled_codes(parsed(source)))] == ["engine", "timeout", "draining", "no_answer"]
