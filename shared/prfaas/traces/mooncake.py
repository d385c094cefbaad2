"""Mooncake's traces: JSON lines {timestamp in ms, input_length, output_length, hash_ids of 512-token blocks}.

`hash_ids` may be absent: the trace then says nothing of shared prefixes.
"""

from array import array
from collections.abc import Iterator
from pathlib import Path

from prfaas.traces.bad_rows import BadRows
from prfaas.traces.request import TraceRequest
from prfaas.traces.rows import Row, in_order, json_rows

MOONCAKE_BLOCK_TOKENS = 512
_MILLISECONDS = 1e3


def recognise_mooncake(first_line: str) -> bool:
    return first_line.lstrip().startswith("{") and '"input_length"' in first_line and '"timestamp"' in first_line


def read_mooncake(path: Path, bad: BadRows | None = None) -> Iterator[TraceRequest]:
    """Yields requests in order of arrival. Raises TraceError."""
    bad = bad or BadRows()
    for request, _ in in_order(json_rows(path, bad), _stamped, bad, "timestamp"):
        yield request


def _stamped(row: Row) -> tuple[float, TraceRequest]:
    input_tokens = row.tokens("input_length", least=1)
    block_ids = row.block_ids("hash_ids", input_tokens, MOONCAKE_BLOCK_TOKENS)
    return row.seconds("timestamp", _MILLISECONDS), TraceRequest(
        arrival_s=0.0,
        input_tokens=input_tokens,
        output_tokens=row.tokens("output_length"),
        block_ids=array("q", block_ids),
        block_tokens=MOONCAKE_BLOCK_TOKENS if block_ids else 0,
    )
