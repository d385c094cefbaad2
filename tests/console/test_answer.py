"""Streamed answers, from their lines."""

from typing import Any

import msgspec
import pytest

from prfaas.console.answer import Answer, AnswerError, sentence, shown

OFFLOADED: Any = {
    "outcome": "offloaded", "prefill_site": "east", "reason": "4,000 tokens > 512", "moves": 0, "detours": {},
    "transfer": {"bytes": 12_300_000, "frames": 2},
}  # fmt: skip


def line(**chunk: Any) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n"


def said(content: str, finish_reason: str | None = None) -> bytes:
    return line(choices=[{"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}], usage=None)


def usage(placed: Any) -> bytes:
    return line(choices=[], usage={"prompt_tokens": 4000, "completion_tokens": 2, "total_tokens": 4002, "prfaas": placed})


def taken(*lines: bytes) -> tuple[Answer, str]:
    answer = Answer()
    return answer, "".join([answer.take(each) for each in lines])


def test_text_comes_as_it_is_and_the_end_is_known() -> None:
    answer, text = taken(b": still here\n", b"\n", line(choices=[{"delta": {"role": "assistant", "content": ""}}]), said("hel"))
    assert text == "hel" and not answer.complete
    assert answer.take(said("lo", "stop")) == "lo" and answer.text == "hello"
    assert answer.take(b"data: [DONE]\n") == "" and answer.complete


@pytest.mark.parametrize(("placed", "expected"), [
    (OFFLOADED, "prefilled: at east (offloaded: 4,000 tokens > 512); 12.3 MB over the link; first token after 250 ms; "
     "4,000 + 2 tokens"),
    (OFFLOADED | {"outcome": "local_short", "prefill_site": "home", "reason": "short"},
     "prefilled: at home (local_short: short); nothing over a link; first token after 250 ms; 4,000 + 2 tokens"),
    (OFFLOADED | {"outcome": "fallback_timeout", "prefill_site": "home", "reason": "late"},
     "prefilled: at home (fallback_timeout: late); nothing kept of what crossed a link; first token after 250 ms; "
     "4,000 + 2 tokens"),
    (None, "prefilled: the server does not say where; first token after 250 ms; 4,000 + 2 tokens"),
])  # fmt: skip
def test_the_last_line_says_where_and_why(placed: Any, expected: str) -> None:
    answer, _ = taken(said("x"), usage(placed))
    assert answer.last_line(0.25) == expected
    answer, _ = taken(said("x", "length"), usage(placed))
    assert answer.last_line(0.25) == f"{expected}; cut off for its length"
    assert "; no text; " in answer.last_line(None)


@pytest.mark.parametrize(("data", "message"), [
    (line(error={"message": "The answer was\nlost.", "type": "server_error", "param": None, "code": "events_lost"}),
     "The answer was lost"),
    (b"data: {\n", "a part of the answer is not of OpenAI's API"),
    (b"data: []\n", "a part of the answer is not of OpenAI's API"),
    (b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n', "a part of the answer is not of OpenAI's API"),
])  # fmt: skip
def test_a_broken_stream_is_one_sentence(data: bytes, message: str) -> None:
    with pytest.raises(AnswerError) as broken:
        Answer().take(data)
    assert str(broken.value) == message


def test_nothing_that_a_terminal_would_obey_is_shown() -> None:
    assert shown("a\x1b[2Jb\n\tc\r\x9b") == "a·[2Jb\n\tc··"
    assert sentence("One\n two\x1b.") == "One two·"
