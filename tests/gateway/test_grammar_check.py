"""Grammars made and checked beside the event loop: what is refused, and that what takes too long is refused in time."""

import asyncio
import threading

import pytest

from prfaas.engine.grammar import forms
from prfaas_gateway.grammar_check import GrammarChecker
from prfaas_gateway.openai.answer_form import Form
from prfaas_gateway.openai.errors import ApiError

PATIENT_S = 60.0


async def test_a_good_grammar_comes_back() -> None:
    checker = GrammarChecker(PATIENT_S)
    assert await checker.grammar_of(Form("guided_regex", lambda: forms.regex("a"))) == forms.regex("a")
    checker.close()


@pytest.mark.parametrize("grammar", ["start: other", forms.regex("("), forms.choice(["x" * 40_000])])
async def test_a_bad_one_is_refused_by_the_name_of_its_field(grammar: str) -> None:
    checker = GrammarChecker(PATIENT_S)
    with pytest.raises(ApiError) as raised:
        await checker.grammar_of(Form("guided_grammar", lambda: grammar))
    assert (raised.value.status, raised.value.body.param, raised.value.body.code) == (400, "guided_grammar", "invalid_value")
    assert raised.value.body.message.startswith("`guided_grammar` ")
    checker.close()


async def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    schema: dict[str, object] = {}
    for _ in range(100_000):
        schema = {"items": schema}
    checker = GrammarChecker(PATIENT_S)
    with pytest.raises(ApiError, match="nested too deeply"):
        await checker.grammar_of(Form("guided_json", lambda: forms.json_schema(schema)))
    checker.close()
    while schema:  # piece by piece: freeing it at once would recurse as deeply
        schema = schema.pop("items", {})  # type: ignore[assignment]


async def test_what_takes_too_long_is_refused_and_holds_up_only_what_comes_after_it_on_its_thread() -> None:
    checker = GrammarChecker(0.001)
    going_on = threading.Event()

    def slow() -> str:
        while not going_on.is_set():
            pass
        return forms.regex("a")

    try:
        for _ in range(2):  # one for each thread
            with pytest.raises(ApiError, match="`guided_json` is too large: it takes more than 1 ms to compile"):
                await checker.grammar_of(Form("guided_json", slow))
        checker._compile_cpu_s = PATIENT_S
        waiting = asyncio.create_task(checker.grammar_of(Form("guided_regex", lambda: forms.regex("b"))))
        await asyncio.sleep(0)
        assert not waiting.done()
    finally:
        going_on.set()
    assert await waiting == forms.regex("b")
    checker.close()


async def test_a_grammar_that_waits_for_a_processor_is_not_too_large() -> None:
    checker = GrammarChecker(0.01)
    going_on = threading.Event()

    def waits() -> str:
        going_on.wait(PATIENT_S)
        return forms.regex("a")

    asking = asyncio.create_task(checker.grammar_of(Form("guided_regex", waits)))
    await asyncio.sleep(0.1)
    assert not asking.done()
    going_on.set()
    assert await asking == forms.regex("a")
    checker.close()
