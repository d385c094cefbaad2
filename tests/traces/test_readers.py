import gzip
import json
import math
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.traces import (
    FORMATS,
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
from prfaas.traces.rows import MAX_LATE_ROWS, MAX_TOKENS


def write_session(path: Path, requests: list[object], session: str = "one") -> Path:
    path.write_text(json.dumps({"id": session, "block_size": 64, "requests": requests}) + "\n")
    return path


def agentx_row(at: float, tokens: int, keep: int, runs: list[int], think: float = 0.0) -> list[object]:
    return [at, "n", tokens, 10, keep, runs, think, 1.0, 0, "end_turn"]


def test_mooncake_rows(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 2999, "input_length": 700, "output_length": 5, "hash_ids": [7, 9]}\n')
    (request,) = read_mooncake(path)
    assert request.arrival_s == 0.0
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


MOONCAKE = '{"timestamp": 1500, "input_length": 700, "output_length": 5, "hash_ids": [7, 9]}'
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00+00:00,374,44"


def read(path: Path, content: bytes | str, format: str | None = None) -> list[TraceRequest]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_trace(path, format))


def test_mooncake_rows_without_hash_ids_have_no_known_prefix(tmp_path: Path) -> None:
    for ids in ("", ', "hash_ids": null', ', "hash_ids": []'):
        (request,) = read(tmp_path / "t", f'{{"timestamp": 0, "input_length": 7, "output_length": 1{ids}}}')
        assert (list(request.block_ids), request.block_tokens) == ([], 0)


def test_numbers_are_read_however_they_are_written(tmp_path: Path) -> None:
    row = '{"timestamp": 1500.0, "input_length": 16.0, "output_length": "4", "hash_ids": [1.0], "more": {"a": [null]}}'
    _, request = read(tmp_path / "t", f'{{"timestamp": 0, "input_length": 1, "output_length": 1}}\n{row}')
    assert tuple(request)[:3] == (1.5, 16, 4)
    assert all(isinstance(tokens, int) for tokens in request[1:3])
    (request,) = read(tmp_path / "t", 'GeneratedTokens,Who,ContextTokens,TIMESTAMP\n4.0,"a, b"," 1.6e1 ",2023-11-16\n')
    assert tuple(request)[:3] == (0.0, 16, 4)


@pytest.mark.parametrize(
    "stamp",
    [
        "2024-05-10 00:00:01.5+00:00",
        "2024-05-10T00:00:01.500000Z",
        "2024-05-10 00:00:01.5000000",
        "2024-05-10 02:00:01.500000+02:00",
        "2024-05-10 00:00:01.500000000 +00:00",
    ],
)
def test_azure_stamps_are_read_in_every_form_that_iso_8601_has(tmp_path: Path, stamp: str) -> None:
    _, second = read(tmp_path / "t", f"{AZURE}\n{stamp},1,1\n")
    assert second.arrival_s == 1.5


@pytest.mark.parametrize("text", [MOONCAKE, AZURE])
def test_what_wraps_the_lines_does_not_matter(tmp_path: Path, text: str) -> None:
    plain = text.encode()
    expected = read(tmp_path / "plain", plain)
    assert len(expected) == 1
    wrapped = {
        "crlf": plain.replace(b"\n", b"\r\n") + b"\r\n",
        "mark": b"\xef\xbb\xbf" + plain,
        "blank": b"\n \n" + plain.replace(b"\n", b"\n\n\t\n") + b"\n\n",
        "zipped": gzip.compress(plain),
        "members": gzip.compress(plain[:20]) + gzip.compress(plain[20:]),
        "not-zipped.gz": plain,
    }
    for name, content in wrapped.items():
        assert read(tmp_path / name, content) == expected


def test_rows_come_in_order_of_time(tmp_path: Path) -> None:
    stamps = [5, 1, 9, 1, 0]
    rows = [f'{{"timestamp": {stamp}e3, "input_length": {index + 1}, "output_length": 1}}' for index, stamp in enumerate(stamps)]
    found = [(request.arrival_s, request.input_tokens) for request in read(tmp_path / "t", "\n".join(rows))]
    assert found == [(0, 5), (1, 2), (1, 4), (5, 1), (9, 3)]
    rows = [f"2024-05-10 00:00:0{stamp},{index + 1},1" for index, stamp in enumerate(stamps)]
    text = "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows])
    assert [(request.arrival_s, request.input_tokens) for request in read(tmp_path / "t", text)] == found


def test_a_row_that_is_far_from_its_place_is_named(tmp_path: Path) -> None:
    rows = [f"2024-05-10 00:00:01,{number + 1},1" for number in range(MAX_LATE_ROWS + 1)]
    text = "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, "2024-05-10 00:00:00,1,1"])
    with pytest.raises(TraceError, match=f"line {MAX_LATE_ROWS + 3}: field TIMESTAMP is earlier .* sort the file"):
        read(tmp_path / "t", text)


def mooncake(**changes: object) -> str:
    return json.dumps({"timestamp": 0, "input_length": 700, "output_length": 5, "hash_ids": [7, 9], **changes})


def session(*rows: object) -> str:
    return json.dumps({"id": "a", "block_size": 64, "requests": rows})


@pytest.mark.parametrize(
    ("format", "text", "line", "field", "message"),
    [
        ("mooncake", '{"timestamp": 0}', 1, "input_length", "is missing; expected a whole number from 1 to 10000000"),
        ("mooncake", f"{MOONCAKE}\n{{}}{{}}", 2, None, "the line is no JSON: JSON is malformed: trailing characters"),
        ("mooncake", "[1]", 1, None, "the line is a list; expected a JSON object"),
        ("mooncake", "[" * 100_000, 1, None, "nested too deeply"),
        ("mooncake", '{"a":' * 100_000, 1, None, "nested too deeply"),
        ("mooncake", mooncake(timestamp="x"), 1, "timestamp", 'is "x"; expected a number from 0'),
        ("mooncake", mooncake(timestamp=-1), 1, "timestamp", "is -1; expected a number from 0"),
        ("mooncake", mooncake(timestamp=float("nan")), 1, None, "the line is no JSON"),
        ("mooncake", mooncake(timestamp="nan"), 1, "timestamp", 'is "nan"; expected a number'),
        ("mooncake", mooncake(timestamp=1e300), 1, "timestamp", "is 1e\\+300; expected a number"),
        ("mooncake", mooncake(timestamp=True), 1, "timestamp", "is true; expected a number"),
        ("mooncake", mooncake(input_length=-10), 1, "input_length", "is -10; expected a whole number from 1 to"),
        ("mooncake", mooncake(input_length=0), 1, "input_length", "is 0; expected a whole number from 1 to"),
        ("mooncake", mooncake(input_length=16.5), 1, "input_length", "is 16.5; expected a whole number"),
        ("mooncake", mooncake(input_length=10**4000), 1, "input_length", "expected a whole number"),
        ("mooncake", mooncake(input_length="1,000"), 1, "input_length", 'is "1,000"; expected a whole number'),
        ("mooncake", mooncake(output_length=None), 1, "output_length", "is null; expected a whole number"),
        ("mooncake", mooncake(output_length=[5]), 1, "output_length", "is a list; expected a whole number"),
        ("mooncake", mooncake(hash_ids=7), 1, "hash_ids", "is 7; expected a list"),
        ("mooncake", mooncake(hash_ids=[1, "x"]), 1, "hash_ids", 'holds "x"; expected whole numbers of 64 bits'),
        ("mooncake", mooncake(hash_ids=[1 << 63]), 1, "hash_ids", "expected whole numbers of 64 bits"),
        ("mooncake", mooncake(hash_ids=[1, 2, 3]), 1, "hash_ids", "has 3 blocks; expected at most 2 of 512 tokens"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1", 2, "TIMESTAMP", 'is "yesterday"; expected a date'),
        ("azure", "time,in,out\n1,1,1", 1, "TIMESTAMP", "is missing from the header, which is time,in,out"),
        ("azure", "TIMESTAMP,TIMESTAMP,ContextTokens,GeneratedTokens", 1, "TIMESTAMP", "stands twice in the header"),
        ("azure", f"{AZURE}\n\n2024-05-10 00:00:01,5", 4, "GeneratedTokens", "is missing"),
        ("azure", f"{AZURE}\n2024-05-10 00:00:01,5,6,7", 3, None, "the row has 4 values under 3 columns"),
        ("azure", f"{AZURE}\n2024-05-10 00:00:01,,6", 3, "ContextTokens", "is empty; expected a whole number"),
        ("azure", f"{AZURE}\n2024-05-10 00:00:01,inf,6", 3, "ContextTokens", 'is "inf"; expected a whole number'),
        ("azure", f'{AZURE}\n"2024-05-10', 3, None, "the text is no CSV"),
        ("azure", f"{AZURE}\n9999-12-31,5,6", 3, "TIMESTAMP", "expected a time within"),
        ("agentx", session([1, "n"]), 1, "requests[0].keep", "is missing; expected a whole number"),
        ("agentx", session([1, "n", 64, 1, 0, [1]]), 1, "requests[0].runs", "has 1 numbers; expected pairs"),
        ("agentx", session([1, "n", 64, 1, 3, []]), 1, "requests[0].keep", "is 3; expected a whole number from 0 to 0"),
        (
            "agentx",
            session([1, "n", 64, 1, 0, [0, 10**9]]),
            1,
            "requests[0].runs",
            "makes 1000000000 blocks; expected at most 156250",
        ),
        ("agentx", session(7), 1, "requests[0]", "is neither a request nor a sub-agent"),
        ("agentx", session({"t": 0}), 1, "requests[0].sub", "is missing; expected a list"),
        ("agentx", '{"id": 1}', 1, "id", "is not text"),
        (
            None,
            "hello\n",
            1,
            None,
            '"hello" begins no format that is known; there are agentx, azure, bailian, burstgpt, mooncake, plain',
        ),
        (None, " \n", None, None, "the file is empty"),
        ("azure", "", None, None, "the file holds no rows; expected a header"),
    ],
)
def test_a_bad_row_is_named(
    tmp_path: Path, format: str | None, text: str, line: int | None, field: str | None, message: str
) -> None:
    with pytest.raises(TraceError, match=message) as raised:
        read(tmp_path / "trace", text, format)
    assert (raised.value.path, raised.value.line, raised.value.field) == (tmp_path / "trace", line, field)
    assert str(raised.value).startswith(f"trace {tmp_path / 'trace'}")
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)


def test_agentx_sub_agents_are_followed_to_a_bound(tmp_path: Path) -> None:
    nested: object = agentx_row(0, 64, 0, [2, 1])
    for _ in range(40):
        nested = {"sub": [nested], "t": 0}
    with pytest.raises(TraceError, match="holds sub-agents more than 16 deep"):
        list(read_agentx(write_session(tmp_path / "t.jsonl", [nested])))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="none: the file cannot be read: No such file or directory"):
        list(read_trace(tmp_path / "none", "azure"))
    with pytest.raises(TraceError, match="the file cannot be read: Is a directory"):
        list(read_trace(tmp_path))
    with pytest.raises(TraceError, match="the file cannot be read: File name too long"):
        list(read_trace(tmp_path / ("x" * 5000)))
    with pytest.raises(TraceError, match="this is no file name"):
        list(read_trace(Path("a\0b")))
    with pytest.raises(
        TraceError, match="there is no trace format csv; there are agentx, azure, bailian, burstgpt, mooncake, plain"
    ):
        read_trace(tmp_path / "none", "csv")


def test_a_pipe_needs_its_format_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TraceError, match="the format of a pipe is not recognised; name one of"):
        read_trace(tmp_path / "pipe")


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="line 2: the text is not UTF-8: byte 3 of the line is 0xff"):
        read(tmp_path / "t", MOONCAKE.encode() + b"\n{}\xff\n", "mooncake")
    with pytest.raises(TraceError, match="line 1: the text is not UTF-8"):
        read(tmp_path / "t", AZURE.encode("utf-16"), "azure")


def test_a_gzip_file_that_was_cut_off_or_damaged_is_named(tmp_path: Path) -> None:
    packed = gzip.compress("\n".join([MOONCAKE] * 1000).encode())
    with pytest.raises(TraceError, match=r"line \d+: the gzip file ends early"):
        read(tmp_path / "t", packed[:-20], "mooncake")
    with pytest.raises(TraceError, match="the gzip file is damaged"):
        read(tmp_path / "t", packed[:-8] + b"\0" * 8, "mooncake")
    with pytest.raises(TraceError, match="the gzip file is damaged"):
        read(tmp_path / "t", packed + b"more", "mooncake")


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prfaas.traces.lines.MAX_LINE_BYTES", 1 << 20)
    with pytest.raises(TraceError, match="line 1: the line has more than 1 MiB"):
        read(tmp_path / "t", gzip.compress(b"\0" * (2 << 20)), "mooncake")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
NUMBERS = st.integers(min_value=-5, max_value=5000) | st.floats() | st.integers() | JSON
MOONCAKE_ROWS = st.fixed_dictionaries(
    {},
    optional={
        "timestamp": NUMBERS,
        "input_length": NUMBERS,
        "output_length": NUMBERS,
        "hash_ids": st.lists(NUMBERS, max_size=5) | JSON,
        "else": JSON,
    },
).map(json.dumps)
AGENTX_AGENT_ROWS = st.recursive(
    st.tuples(NUMBERS, JSON, NUMBERS, NUMBERS, NUMBERS, st.lists(NUMBERS, max_size=4) | JSON, NUMBERS).map(list) | JSON,
    lambda inner: st.fixed_dictionaries({"sub": st.lists(inner, max_size=3), "t": NUMBERS}),
    max_leaves=5,
)
AGENTX_ROWS = st.fixed_dictionaries(
    {"id": st.text(max_size=3) | JSON, "block_size": st.just(64) | NUMBERS, "requests": st.lists(AGENTX_AGENT_ROWS, max_size=4)}
).map(json.dumps)
CELLS = NUMBERS.map(str) | st.datetimes().map(str) | st.datetimes(timezones=st.timezones()).map(lambda at: at.isoformat())
AZURE_ROWS = st.lists(CELLS | st.text(max_size=5), max_size=5).map(",".join)
HEADERS = st.permutations(["TIMESTAMP", "ContextTokens", "GeneratedTokens", "else"]).map(",".join) | st.text(max_size=20)
TEXTS = st.one_of(
    st.lists(MOONCAKE_ROWS | AGENTX_ROWS | st.text(max_size=20), max_size=4),
    st.builds(lambda header, rows: [header, *rows], HEADERS, st.lists(AZURE_ROWS, max_size=4)),
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    ending = draw(st.sampled_from(["\n", "\r\n", "\n\n", "\r"]))
    content = ending.join(draw(TEXTS)).encode("utf-8", "surrogatepass")
    content = draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe"])) + content
    if draw(st.booleans()):
        content = gzip.compress(content)
    return content[: draw(st.integers(min_value=0, max_value=len(content)))] if draw(st.booleans()) else content


@given(files() | st.binary(max_size=60), st.sampled_from([None, *FORMATS]))
def test_every_file_is_read_rightly_or_refused_in_one_sentence(content: bytes, format: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        try:
            requests = read(path, content, format)
        except TraceError as error:
            assert str(error).startswith(f"trace {path}")
            assert "\n" not in str(error)
            assert len(str(error)) < 500
            return
    for request in requests:
        assert 0 <= request.arrival_s < math.inf
        assert 0 <= request.think_s < math.inf
        assert request.input_tokens >= 1
        assert request.output_tokens >= 0
        assert len(request.block_ids) * request.block_tokens <= MAX_TOKENS
    if format != "agentx" and not any(request.session for request in requests):
        assert requests == sorted(requests, key=lambda request: request.arrival_s)


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
