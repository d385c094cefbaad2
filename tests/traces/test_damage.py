"""Every format, plain and gzipped, against every kind of damage: read rightly, or refused with file, line and field."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from prfaas.traces import FORMATS, BadRows, TraceError, TraceRequest, read_trace, recognise_format
from prfaas.traces.rows import MAX_TOKENS


class Made(NamedTuple):
    """Rows of one format with the names of its fields."""

    head: str
    """Line before the rows; empty where there is none."""
    row: Callable[[Any, Any, Any], str]
    """(time in s, input tokens, output tokens) -> line; None leaves the field out."""
    time: str
    input: str
    output: str


def of_json(**names: str) -> Callable[[Any, Any, Any], str]:
    def row(at_s: Any, input_tokens: Any, output_tokens: Any) -> str:
        scale = 1000 if names["time"] == "timestamp" and "chat" not in names else 1
        values = {names["time"]: at_s * scale if isinstance(at_s, int | float) else at_s}
        values |= {names["input"]: input_tokens, names["output"]: output_tokens}
        if "chat" in names:
            values |= {"chat_id": 7, "parent_chat_id": -1}
        return json.dumps({name: value for name, value in values.items() if value is not None})

    return row


def agentx_row(at_s: Any, input_tokens: Any, output_tokens: Any) -> str:
    request = [at_s, "n", input_tokens, output_tokens, 0, [], 0.0]
    return json.dumps({"id": "s", "block_size": 64, "requests": [request]})


def csv_row(at_s: Any, input_tokens: Any, output_tokens: Any) -> str:
    return ",".join("" if value is None else str(value) for value in (at_s, input_tokens, output_tokens))


def azure_row(at_s: Any, input_tokens: Any, output_tokens: Any) -> str:
    stamp = f"2024-05-10 00:00:{at_s:09.6f}" if isinstance(at_s, int | float) and at_s >= 0 else at_s
    return csv_row(stamp, input_tokens, output_tokens)


MADE = {
    "mooncake": Made("", of_json(time="timestamp", input="input_length", output="output_length"),
                     "timestamp", "input_length", "output_length"),
    "bailian": Made("", of_json(time="timestamp", input="input_length", output="output_length", chat=""),
                    "timestamp", "input_length", "output_length"),
    "plain": Made("", of_json(time="arrival_s", input="input_tokens", output="output_tokens"),
                  "arrival_s", "input_tokens", "output_tokens"),
    "azure": Made("TIMESTAMP,ContextTokens,GeneratedTokens", azure_row, "TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "burstgpt": Made("Timestamp,Request tokens,Response tokens", csv_row, "Timestamp", "Request tokens", "Response tokens"),
    "agentx": Made("", agentx_row, "t", "in", "out"),
}  # fmt: skip
ONE_CLOCK = [name for name, format in FORMATS.items() if format.one_clock]
GOOD = (2.0, 50, 5)


def file_of(
    folder: Path, format: str, rows: list[tuple[Any, Any, Any]], *, packed: bool, end: str = "\n", mark: str = ""
) -> Path:
    made = MADE[format]
    lines = ([made.head] if made.head else []) + [made.row(*row) for row in rows]
    content = (mark + end.join(lines) + end).encode()
    path = folder / "trace"
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def first_line(format: str) -> int:
    return 2 if MADE[format].head else 1


def figures(requests: list[TraceRequest]) -> list[tuple[float, int, int]]:
    return [(request.arrival_s, request.input_tokens, request.output_tokens) for request in requests]


def test_every_format_is_tried_here() -> None:
    assert MADE.keys() == FORMATS.keys()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("field", "place", "value"),
    [
        ("time", 0, -1.0),
        ("time", 0, "soon"),
        ("time", 0, None),
        ("time", 0, 1e300),
        ("input", 1, 0),
        ("input", 1, -5),
        ("input", 1, None),
        ("input", 1, 2.5),
        ("input", 1, MAX_TOKENS + 1),
        ("input", 1, 10**400),
        ("output", 2, -1),
        ("output", 2, None),
        ("output", 2, "many"),
        ("output", 2, MAX_TOKENS + 1),
    ],
)
def test_a_damaged_field_is_named_with_its_line_and_what_was_expected(
    tmp_path: Path, format: str, packed: bool, field: str, place: int, value: Any
) -> None:
    damaged: list[Any] = [value if at == place else good for at, good in enumerate(GOOD)]
    path = file_of(tmp_path, format, [GOOD, (damaged[0], damaged[1], damaged[2]), GOOD], packed=packed)
    with pytest.raises(TraceError, match=rf"trace {path}, line {first_line(format) + 1}: field ") as told:
        list(read_trace(path))
    assert getattr(MADE[format], field) in str(told.value) and "expected" in str(told.value)
    bad = BadRows(1)
    assert len(list(read_trace(path, bad=bad))) == 2 and bad.lines == [first_line(format) + 1]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("end", "mark"), [("\r\n", ""), ("\n", "\ufeff"), ("\r\n", "\ufeff"), ("\n\n  \n", "")])
def test_line_ends_and_byte_order_marks_change_nothing(tmp_path: Path, format: str, packed: bool, end: str, mark: str) -> None:
    rows = [(1.0, 50, 5), (1.0, 60, 0), (3.5, 70, 7)]
    plain = list(read_trace(file_of(tmp_path, format, rows, packed=False)))
    found = list(read_trace(file_of(tmp_path, format, rows, packed=packed, end=end, mark=mark)))
    assert figures(found) == figures(plain) and len(found) == 3


@pytest.mark.parametrize("format", ONE_CLOCK)
def test_times_count_from_the_first_request_sorted_and_may_repeat(tmp_path: Path, format: str) -> None:
    """Excerpts begin anywhere, and stamps may count from 1970."""
    path = file_of(tmp_path, format, [(9.0, 1, 1), (7.0, 2, 1), (9.0, 3, 1), (7.5, 4, 1)], packed=False)
    assert figures(list(read_trace(path))) == [(0.0, 2, 1), (0.5, 4, 1), (2.0, 1, 1), (2.0, 3, 1)]


def test_stamps_since_1970_are_times_too(tmp_path: Path) -> None:
    path = file_of(tmp_path, "mooncake", [(1_700_000_000, 2, 1), (1_700_000_001.5, 4, 1)], packed=False)
    assert figures(list(read_trace(path))) == [(0.0, 2, 1), (1.5, 4, 1)]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_gzip_file_that_was_cut_off_is_refused_even_where_rows_may_be_left_out(
    tmp_path: Path, format: str, share: float
) -> None:
    path = file_of(tmp_path, format, [(float(second), 50 + second, 5) for second in range(50)], packed=True)
    path.write_bytes(path.read_bytes()[: int(len(path.read_bytes()) * share)])
    with pytest.raises(TraceError, match="the gzip file ends early: it was cut off"):
        list(read_trace(path, format, BadRows(1000)))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("line", ["{", "\x00", '"', "[1, 2]", "5"])
def test_a_line_that_is_no_row_may_be_left_out(tmp_path: Path, format: str, line: str) -> None:
    path = file_of(tmp_path, format, [GOOD, GOOD, GOOD], packed=False)
    lines = path.read_text().splitlines()
    lines[-2] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(TraceError, match=rf"line {len(lines) - 1}"):
        list(read_trace(path, format))
    bad = BadRows(1)
    assert len(list(read_trace(path, format, bad))) == 2 and bad.lines == [len(lines) - 1]


@pytest.mark.parametrize("format", ["mooncake", "bailian", "plain", "agentx"])
def test_a_file_whose_first_line_is_damaged_is_recognised_by_a_later_one(tmp_path: Path, format: str) -> None:
    path = file_of(tmp_path, format, [GOOD, GOOD], packed=False)
    path.write_bytes(b"\xff garbage\n{}\n" + path.read_bytes())
    with pytest.raises(TraceError, match="line 1"):
        recognise_format(path)
    assert recognise_format(path, 3) == format
    bad = BadRows(2)
    assert len(list(read_trace(path, format, bad))) == 2 and bad.lines == [1, 2]


def test_many_bad_rows_are_left_out_in_one_reading(tmp_path: Path) -> None:
    rows: list[tuple[Any, Any, Any]] = [(float(second), -1 if second % 2 else 5, 5) for second in range(20_000)]
    path = file_of(tmp_path, "mooncake", rows, packed=False)
    opened = 0

    class Counted(type(path)):  # type: ignore[misc]
        def open(self, *arguments: Any, **named: Any) -> Any:
            nonlocal opened
            opened += 1
            return super().open(*arguments, **named)

    bad = BadRows(10_000)
    assert len(list(read_trace(Counted(path), "mooncake", bad))) == 10_000
    assert len(bad.lines) == 10_000 and opened == 1
    with pytest.raises(TraceError, match="line 20000"):
        list(read_trace(path, "mooncake", BadRows(9_999)))
