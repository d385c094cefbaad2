"""Azure's LLM inference traces of 2023 and 2024: CSV with TIMESTAMP, ContextTokens, GeneratedTokens.

Stamps have seven fractional digits (2023), six and an offset, or none at all (2024). Nothing is known of shared prefixes.
"""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prfaas.traces.errors import shown
from prfaas.traces.request import TraceRequest
from prfaas.traces.rows import MAX_SECONDS, Row, csv_rows, in_order

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def recognise_azure(first_line: str) -> bool:
    return all(column in first_line for column in COLUMNS)


def read_azure(path: Path, skip: Collection[int] = ()) -> Iterator[TraceRequest]:
    """Yields requests in order of arrival; the first arrives at 0. Raises TraceError."""
    first_us: float | None = None
    for stamp_us, row in in_order(((_stamp_us(row), row) for row in csv_rows(path, COLUMNS, skip)), "TIMESTAMP"):
        first_us = stamp_us if first_us is None else first_us
        arrival_s = (stamp_us - first_us) / 1e6
        if arrival_s > MAX_SECONDS:
            raise row.error("TIMESTAMP", f"is {arrival_s:g} s after the first; expected a time within {MAX_SECONDS:g} s of it")
        yield TraceRequest(
            arrival_s=arrival_s,
            input_tokens=row.tokens("ContextTokens", least=1),
            output_tokens=row.tokens("GeneratedTokens"),
        )


def _stamp_us(row: Row) -> int:
    """Microseconds since 1970; a stamp without an offset is taken as UTC."""
    text = row.value("TIMESTAMP", "a date and time").strip()
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        raise row.error("TIMESTAMP", f'is "{shown(text)}"; expected a date and time like 2024-05-10 00:00:01+00:00') from None
    aware = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND
