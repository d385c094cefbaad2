"""BurstGPT, Qwen-Bailian and our own format, and rows that are left out."""

import gzip
import json
from pathlib import Path

import pytest

from prfaas.traces import TraceError, TraceRequest, read_trace, recognise_format

BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def rows(path: Path, *values: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def test_burstgpt_counts_from_its_first_row_and_keeps_failed_requests(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(BURSTGPT + "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,API log\n")
    assert recognise_format(path) == "burstgpt"
    assert [tuple(request)[:3] for request in read_trace(path)] == [(0.0, 472, 18), (40.0, 1087, 0)]


def test_burstgpts_sessions_are_read_where_it_has_them(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    head = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\r\n"
    path.write_bytes(gzip.compress((head + "1.5,7,2.5,GPT-4,10,3,13,API log\r\n").encode()))
    (request,) = read_trace(path)
    assert (request.session, request.input_tokens) == ("7", 10)


def test_bailians_turns_belong_to_the_conversation_that_they_go_on(tmp_path: Path) -> None:
    def row(chat: int, parent: int, at: float) -> dict[str, object]:
        base = {"chat_id": chat, "parent_chat_id": parent, "timestamp": at, "input_length": 20, "output_length": 5}
        return base | {"type": "text", "turn": 1, "hash_ids": [chat, 9]}

    path = rows(tmp_path / "t.jsonl", row(1, -1, 0.5), row(2, -1, 1.0), row(3, 1, 2.0), row(4, 3, 3.0), row(5, 99, 4.0))
    assert recognise_format(path) == "bailian"
    found = list(read_trace(path))
    assert [request.session for request in found] == ["1", "2", "1", "1", "99"]
    assert (found[0].arrival_s, list(found[0].block_ids), found[0].block_tokens) == (0.0, [1, 9], 16)
    assert [request.arrival_s for request in found] == [0.0, 0.5, 1.5, 2.5, 3.5]


def test_our_own_format_has_texts_blocks_and_sessions(tmp_path: Path) -> None:
    path = rows(
        tmp_path / "t.jsonl",
        {"arrival_s": 0, "text": "What is a dragon?", "output_tokens": 9, "session": "s"},
        {"text": "And a wyvern?", "output_tokens": 9, "session": "s", "think_s": 2},
        {"arrival_s": 1.5, "input_tokens": 100, "output_tokens": 7, "block_ids": [4, 5], "block_tokens": 64},
    )
    assert recognise_format(path) == "plain"
    first, second, third = read_trace(path)
    assert first == TraceRequest(0.0, 4, 9, first.block_ids, 0, "s", 0.0, "What is a dragon?")
    assert (second.arrival_s, second.think_s, second.session) == (0.0, 2.0, "s")
    assert (third.input_tokens, list(third.block_ids), third.block_tokens, third.text) == (100, [4, 5], 64, "")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"arrival_s": 0, "output_tokens": 1}, "field input_tokens is missing"),
        ({"text": "x", "output_tokens": 1}, "field arrival_s is missing"),
        ({"arrival_s": -1, "text": "x", "output_tokens": 1}, "field arrival_s is -1"),
        ({"arrival_s": 0, "text": 5, "output_tokens": 1}, "field text is not text"),
        ({"arrival_s": 0, "text": "x", "output_tokens": 1, "session": 3}, "field session is not text"),
        ({"arrival_s": 0, "text": "x", "output_tokens": 1, "prompt": "y"}, "field prompt is unknown"),
        ({"arrival_s": 0, "input_tokens": 9, "output_tokens": 1, "block_ids": [1]}, "field block_tokens is missing"),
        ({"arrival_s": 0, "input_tokens": 9, "output_tokens": 1, "block_ids": [1, 2], "block_tokens": 9}, "at most 1"),
        ({"arrival_s": 0, "input_tokens": 9, "output_tokens": 1, "think_s": "soon"}, "field think_s"),
    ],
)
def test_a_row_of_our_own_format_that_cannot_be_read_is_said(row: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=says):
        list(read_trace(rows(tmp_path / "t.jsonl", row), "plain"))
