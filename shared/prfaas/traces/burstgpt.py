"""BurstGPT's traces: CSV with Timestamp (seconds), Request tokens, Response tokens, and Session ID in later editions.

Rows without response tokens are requests that failed; they are kept, as load. Nothing is known of shared prefixes.
"""

from collections.abc import Iterator
from pathlib import Path

from prfaas.traces.bad_rows import BadRows
from prfaas.traces.request import TraceRequest
from prfaas.traces.rows import Row, csv_rows, in_order

COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
SESSION_COLUMN = "Session ID"


def recognise_burstgpt(first_line: str) -> bool:
    return all(column in first_line for column in COLUMNS)


def read_burstgpt(path: Path, bad: BadRows | None = None) -> Iterator[TraceRequest]:
    """Yields requests in order of arrival. Raises TraceError."""
    bad = bad or BadRows()
    for request, _ in in_order(csv_rows(path, COLUMNS, bad), _stamped, bad, "Timestamp"):
        yield request


def _stamped(row: Row) -> tuple[float, TraceRequest]:
    return row.seconds("Timestamp"), TraceRequest(
        arrival_s=0.0,
        input_tokens=row.tokens("Request tokens", least=1),
        output_tokens=row.tokens("Response tokens"),
        session=(row.values.get(SESSION_COLUMN) or "").strip(),
    )
