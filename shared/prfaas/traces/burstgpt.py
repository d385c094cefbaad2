"""BurstGPT's traces: CSV with Timestamp (seconds), Request tokens, Response tokens, and Session ID in later editions.

Rows without response tokens are requests that failed; they are kept, as load. Nothing is known of shared prefixes.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from prfaas.traces.request import TraceRequest
from prfaas.traces.rows import csv_rows, in_order

COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
SESSION_COLUMN = "Session ID"


def recognise_burstgpt(first_line: str) -> bool:
    return all(column in first_line for column in COLUMNS)


def read_burstgpt(path: Path, skip: Collection[int] = ()) -> Iterator[TraceRequest]:
    """Yields requests in order of arrival; the first arrives at 0. Raises TraceError."""
    first_s: float | None = None
    stamped = ((row.seconds("Timestamp"), row) for row in csv_rows(path, COLUMNS, skip))
    for stamp_s, row in in_order(stamped, "Timestamp"):
        first_s = stamp_s if first_s is None else first_s
        yield TraceRequest(
            arrival_s=stamp_s - first_s,
            input_tokens=row.tokens("Request tokens", least=1),
            output_tokens=row.tokens("Response tokens"),
            session=(row.values.get(SESSION_COLUMN) or "").strip(),
        )
