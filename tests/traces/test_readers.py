import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.traces import (
    TraceError,
    TraceRequest,
    read_agentx,
    read_azure,
    read_mooncake,
    read_trace,
    scaled,
    sped_up,
    spread_arrivals,
)


def write_session(path: Path, requests: list[object], session: str = "one") -> Path:
    path.write_text(json.dumps({"id": session, "block_size": 64, "requests": requests}) + "\n")
    return path


def agentx_row(at: float, tokens: int, keep: int, runs: list[int], think: float = 0.0) -> list[object]:
    return [at, "n", tokens, 10, keep, runs, think, 1.0, 0, "end_turn"]


def test_mooncake_rows(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 2999, "input_length": 700, "output_length": 5, "hash_ids": [7, 9]}\n')
    (request,) = read_mooncake(path)
    assert request.arrival_s == pytest.approx(2.999)
    assert (request.input_tokens, request.output_tokens, list(request.block_ids), request.block_tokens) == (700, 5, [7, 9], 512)


def test_azure_rows_count_from_the_first_one_over_midnight(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    lines = [
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-11-16 23:59:59.5000000,374,44",
        "2023-11-17 00:00:01.7500001,396,109",
    ]
    path.write_text("\r\n".join(lines) + "\r\n")
    assert [tuple(request)[:3] for request in read_azure(path)] == [(0.0, 374, 44), (2.25, 396, 109)]


def test_agentx_blocks_are_differences_to_the_row_before(tmp_path: Path) -> None:
    path = write_session(tmp_path / "t.jsonl", [agentx_row(0, 256, 0, [1, 4]), agentx_row(9, 320, 3, [10, 1, 20, 2], think=2.5)])
    first, second = read_agentx(path)
    base = first.block_ids[0] - 1
    assert [block - base for block in second.block_ids] == [1, 2, 3, 10, 20, 21]
    assert (second.arrival_s, second.think_s, second.session, second.block_tokens) == (9.0, 2.5, "one", 64)


def test_agentx_sub_agents_start_empty_share_blocks_and_come_in_order_of_time(tmp_path: Path) -> None:
    sub = {"sub": [agentx_row(0, 64, 0, [2, 1]), agentx_row(4, 64, 1, [5, 1])], "t": 3.5, "ms": 1}
    path = write_session(tmp_path / "t.jsonl", [agentx_row(0, 128, 0, [1, 2]), sub, agentx_row(5, 128, 2, [7, 1])])
    requests = list(read_agentx(path))
    assert [(request.arrival_s, request.session) for request in requests] == [
        (0, "one"),
        (3.5, "one/1"),
        (5, "one"),
        (7.5, "one/1"),
    ]
    assert requests[1].block_ids[0] == requests[0].block_ids[1]


def test_agentx_block_ids_of_two_sessions_differ(tmp_path: Path) -> None:
    one = write_session(tmp_path / "one.jsonl", [agentx_row(0, 64, 0, [1, 1])]).read_text()
    two = write_session(tmp_path / "two.jsonl", [agentx_row(0, 64, 0, [1, 1])], "two").read_text()
    both = tmp_path / "both.jsonl"
    both.write_text(one + two)
    first, second = read_agentx(both)
    assert first.block_ids[0] != second.block_ids[0]


def test_gzip_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [0]}\n'))
    assert len(list(read_mooncake(path))) == 1


@pytest.mark.parametrize(
    ("format", "text", "message"),
    [
        ("mooncake", '{"timestamp": 0}\n', r"line 1: the field 'input_length' is missing"),
        ("mooncake", "{}{}\n", "line 1: Extra data"),
        ("mooncake", '{"timestamp": "x", "input_length": 1, "output_length": 1, "hash_ids": []}\n', "line 1"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n", "line 2: Invalid isoformat"),
        ("azure", "time,in,out\n1,1,1\n", "line 2: the field 'TIMESTAMP' is missing"),
        ("agentx", '{"id": "a", "block_size": 64, "requests": [[1, 2]]}\n', "line 1: not enough values"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, format: str, text: str, message: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(TraceError, match=message):
        list(read_trace(path, format))


def test_a_missing_file_and_an_unknown_format_are_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        list(read_trace(tmp_path / "none", "azure"))
    with pytest.raises(TraceError, match="agentx, azure, mooncake"):
        read_trace(tmp_path / "none", "csv")


@given(st.integers(min_value=1, max_value=200_000), st.sampled_from([1, 2, 8, 64, 512]))
def test_scaling_keeps_the_number_of_blocks(tokens: int, divisor: int) -> None:
    blocks = -(-tokens // 512)
    (request,) = scaled([TraceRequest(0, tokens, 100, range(blocks), 512)], divisor)
    assert -(-request.input_tokens // request.block_tokens) == blocks
    assert request.input_tokens >= 1
    assert request.output_tokens == -(-100 // divisor)


def test_scaling_and_speed_refuse_what_they_cannot_do() -> None:
    request = TraceRequest(4.0, 100, 10, (1,), 512, "s", 2.0)
    with pytest.raises(ValueError, match="cannot be divided by 3"):
        list(scaled([request], 3))
    with pytest.raises(ValueError, match="at least 1"):
        list(scaled([request], 0))
    with pytest.raises(ValueError, match="positive factor"):
        list(sped_up([request], 0))
    (fast,) = sped_up([request], 2)
    assert (fast.arrival_s, fast.think_s) == (2.0, 1.0)


@given(st.lists(st.integers(min_value=0, max_value=5), max_size=40), st.integers())
def test_spread_arrivals_stay_in_their_bucket_and_in_order(stamps: list[int], seed: int) -> None:
    requests = [TraceRequest(3.0 * stamp, index, 1) for index, stamp in enumerate(sorted(stamps))]
    spread = list(spread_arrivals(requests, bucket_s=3.0, seed=seed))
    assert [request.input_tokens for request in spread] == list(range(len(requests)))
    assert [request.arrival_s for request in spread] == sorted(request.arrival_s for request in spread)
    for before, after in zip(requests, spread, strict=True):
        assert before.arrival_s <= after.arrival_s <= before.arrival_s + 3.0
    assert spread == list(spread_arrivals(requests, bucket_s=3.0, seed=seed))
