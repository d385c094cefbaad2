import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.stack.last_words import last_words


def entry(**fields: str) -> str:
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], ""),
        ([entry(level="info", event="ready")], ""),
        (["prfaas-gateway: key `prot` is unknown"], "prfaas-gateway: key `prot` is unknown"),
        ([entry(level="error", event="crashed", error="no such model"), entry(level="info", event="stopped")], "no such model"),
        ([entry(level="error", event="exit_forced", reason="a thread hangs")], "a thread hangs"),
        ([entry(level="error", event="crashed", error="first line\nTraceback ...")], "first line"),
        (["[1, 2]", ""], "[1, 2]"),
    ],
)
def test_the_last_error_is_told_in_one_line(lines: list[str], said: str) -> None:
    assert last_words(lines) == said


@given(st.lists(st.text()))
def test_whatever_a_log_holds_the_answer_is_one_short_line(lines: list[str]) -> None:
    said = last_words(lines)
    assert len(said.splitlines()) <= 1 and len(said) <= 404
