"""Azure's LLM inference traces of 2023 and 2024: CSV with TIMESTAMP, ContextTokens, GeneratedTokens.

Stamps have seven fractional digits (2023), six and an offset, or none at all (2024). Nothing is known of shared prefixes.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prfaas.traces.bad_rows import BadRows
from prfaas.traces.errors import shown
from prfaas.traces.request import TraceRequest
from prfaas.traces.rows import Row, csv_rows, in_order

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def recognise_azure(first_line: str) -> bool:
    return all(column in first_line for column in COLUMNS)


def read_azure(path: Path, bad: BadRows | None = None) -> Iterator[TraceRequest]:
    """Yields requests in order of arrival. Raises TraceError."""
    bad = bad or BadRows()
    for request, _ in in_order(csv_rows(path, COLUMNS, bad), _stamped, bad, "TIMESTAMP", per_second=1e6):
        yield request


def _stamped(row: Row) -> tuple[float, TraceRequest]:
    input_tokens, output_tokens = row.tokens("ContextTokens", least=1), row.tokens("GeneratedTokens")
    return _stamp_us(row), TraceRequest(arrival_s=0.0, input_tokens=input_tokens, output_tokens=output_tokens)


def _stamp_us(row: Row) -> int:
    """Microseconds since 1970; a stamp without an offset is taken as UTC."""
    text = row.value("TIMESTAMP", "a date and time").strip()
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        raise row.error("TIMESTAMP", f'is "{shown(text)}"; expected a date and time like 2024-05-10 00:00:01+00:00') from None
    aware = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND
