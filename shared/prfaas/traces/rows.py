"""Rows of a trace and their fields: numbers are checked here, so that each format only names what it needs."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from prfaas.traces.bad_rows import BadRows
from prfaas.traces.errors import TraceError, shown
from prfaas.traces.lines import Line, read_lines
from prfaas.traces.request import TraceRequest

MAX_TOKENS = 10_000_000
"""Longest prompt or answer that is believed: ten times the longest context in service."""
MAX_SECONDS = 100 * 366 * 86_400.0
"""Latest time that is believed: a century."""
MAX_LATE_ROWS = 16_384
"""Rows that may stand between a row and its place in order of time."""
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_LONGEST_NUMBER = 64
_BLOCK_IDS = range(-(1 << 63), 1 << 63)
_ABSENT = object()


class Row(NamedTuple):
    """One record of a trace file. The methods raise TraceError, which names the file, the line and the field."""

    path: Path
    line: int
    values: Mapping[str, Any]
    prefix: str = ""
    """Place of this record in its line, such as `requests[3].`."""

    def error(self, field: str, problem: str) -> TraceError:
        return TraceError(self.path, problem, line=self.line, field=f"{self.prefix}{field}")

    def value(self, field: str, expected: str) -> Any:
        value = self.values.get(field, _ABSENT)
        if value is _ABSENT:
            raise self.error(field, f"is missing; expected {expected}")
        return value

    def whole(self, field: str, least: int, most: int) -> int:
        """Reads a whole number, also from `16.0`, `"16"` and `1.6e1`."""
        expected = f"a whole number from {least} to {most}"
        value = self.value(field, expected)
        number = _number(value)
        # The comparison comes first: it refuses NaN and what int() could not take.
        if number is None or not least <= number <= most or number != int(number):
            raise self.error(field, f"is {_described(value)}; expected {expected}")
        return int(number)

    def tokens(self, field: str, least: int = 0) -> int:
        return self.whole(field, least, MAX_TOKENS)

    def seconds(self, field: str, per_second: float = 1.0) -> float:
        """Reads a time of at least zero; `per_second` of its units make a second."""
        expected = f"a number from 0 to {MAX_SECONDS * per_second:g}"
        value = self.value(field, expected)
        number = _number(value)
        if number is None or not 0 <= number <= MAX_SECONDS * per_second:
            raise self.error(field, f"is {_described(value)}; expected {expected}")
        return number / per_second

    def items(self, field: str) -> Sequence[Any]:
        value = self.value(field, "a list")
        if not isinstance(value, list):
            raise self.error(field, f"is {_described(value)}; expected a list")
        return value

    def block_ids(self, field: str, input_tokens: int, block_tokens: int) -> list[int]:
        """Reads the names of a prompt's blocks: none when the field is absent or null."""
        if self.values.get(field) is None:
            return []
        ids = self.items(field)
        most = -(-input_tokens // block_tokens)
        if len(ids) > most:
            raise self.error(field, f"has {len(ids)} blocks; expected at most {most} of {block_tokens} tokens each")
        found = [_number(value) for value in ids]
        for value, number in zip(ids, found, strict=True):
            if number is None or not _BLOCK_IDS[0] <= number <= _BLOCK_IDS[-1] or number != int(number):
                raise self.error(field, f"holds {_described(value)}; expected whole numbers of 64 bits")
        return [int(number) for number in found if number is not None]


def json_rows(path: Path, bad: BadRows) -> Iterator[Row]:
    """Yields the object on each line. Raises TraceError."""
    for line in read_lines(path, bad):
        try:
            values = json_object(path, line)
        except TraceError as error:
            bad.leave_out(error)
            continue
        yield Row(path, line.number, values)


def json_object(path: Path, line: Line) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(line.text)
    except RecursionError:
        raise TraceError(path, "the JSON is nested too deeply", line=line.number) from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise TraceError(path, f"the line is no JSON: {str(error).rstrip('.')}", line=line.number) from error
    if not isinstance(value, dict):
        raise TraceError(path, f"the line is {_described(value)}; expected a JSON object", line=line.number)
    return value


def csv_rows(path: Path, columns: Sequence[str], bad: BadRows) -> Iterator[Row]:
    """Yields the rows under a header that has `columns`, in any order and beside others. Raises TraceError."""
    header: list[str] | None = None
    for line, record in _csv_records(path, bad):
        if header is None:
            header = _header(record, columns, path, line)
            continue
        try:
            values = _named(header, record, path, line)
        except TraceError as error:
            bad.leave_out(error)
            continue
        yield Row(path, line, values)
    if header is None:
        raise TraceError(path, f"the file holds no rows; expected a header with {', '.join(columns)}")


def _csv_records(path: Path, bad: BadRows) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, values) of each line. A quote that is not closed must not take the lines after it along."""
    for line in read_lines(path, bad):
        try:
            (record,) = csv.reader([line.text], strict=True)
        except csv.Error as error:
            bad.leave_out(TraceError(path, f"the text is no CSV: {error}", line=line.number))
            continue
        yield line.number, record


def _header(record: Sequence[str], columns: Sequence[str], path: Path, line: int) -> list[str]:
    names = [name.strip() for name in record]
    for column in columns:
        if names.count(column) != 1:
            times = "is missing from the header" if column not in names else "stands twice in the header"
            raise TraceError(path, f"{times}, which is {shown(','.join(names))}", line=line, field=column)
    return names


def _named(header: Sequence[str], record: Sequence[str], path: Path, line: int) -> dict[str, str]:
    if len(record) > len(header) and any(cell.strip() for cell in record[len(header) :]):
        raise TraceError(path, f"the row has {len(record)} values under {len(header)} columns", line=line)
    return dict(zip(header, record, strict=False))


def in_order(
    rows: Iterable[Row], build: Callable[[Row], tuple[float, TraceRequest]], bad: BadRows, field: str, per_second: float = 1.0
) -> Iterator[tuple[TraceRequest, Row]]:
    """Yields what `build` makes of each row, in order of its stamps; the first request arrives at 0.

    `build`: row -> (stamp, request without its arrival), called in the file's order. `per_second`: stamps in a second. Raises
    TraceError for a row that cannot be built, is more than MAX_LATE_ROWS rows late or MAX_SECONDS after the first."""
    first: float | None = None
    for stamp, request, row in _by_stamp(rows, build, bad, field):
        first = stamp if first is None else first
        arrival_s = (stamp - first) / per_second
        if arrival_s <= MAX_SECONDS:
            yield request._replace(arrival_s=arrival_s), row
            continue
        bad.leave_out(row.error(field, f"is {arrival_s:g} s after the first; expected a time within {MAX_SECONDS:g} s of it"))


def _by_stamp(
    rows: Iterable[Row], build: Callable[[Row], tuple[float, TraceRequest]], bad: BadRows, field: str
) -> Iterator[tuple[float, TraceRequest, Row]]:
    waiting: list[tuple[float, int, TraceRequest, Row]] = []
    released = float("-inf")
    for count, row in enumerate(rows):
        try:
            stamp, request = build(row)
            if stamp < released:
                raise row.error(field, f"is earlier than that of {MAX_LATE_ROWS} rows before it; sort the file by it")
        except TraceError as error:
            bad.leave_out(error)
            continue
        heappush(waiting, (stamp, count, request, row))
        if len(waiting) > MAX_LATE_ROWS:
            released, _, request, row = heappop(waiting)
            yield released, request, row
    while waiting:
        released, _, request, row = heappop(waiting)
        yield released, request, row


def _number(value: Any) -> int | float | None:
    if isinstance(value, str):
        text = value.strip()
        if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
            return None
        return int(text) if _WHOLE.fullmatch(text) else float(text)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _described(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{shown(value)}"' if value.strip() else "empty"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return shown(value)
