"""prfaas' own format: JSON lines with the fields of TraceRequest, of which most may be absent (docs/replay.md).

`arrival_s` is absent in a later turn of a session that follows the answer before it. `text` is the prompt itself; without it
`input_tokens` says how long a prompt is to be made.
"""

from array import array
from collections.abc import Iterator
from pathlib import Path

from prfaas.traces.bad_rows import BadRows
from prfaas.traces.request import TraceRequest
from prfaas.traces.rows import MAX_TOKENS, Row, in_order, json_rows

FIELDS = ("arrival_s", "input_tokens", "output_tokens", "block_ids", "block_tokens", "session", "think_s", "text")
CHARACTERS_PER_TOKEN = 4
"""Estimate of the length of a text whose row does not say its `input_tokens`."""


def recognise_plain(first_line: str) -> bool:
    return first_line.lstrip().startswith("{") and '"output_tokens"' in first_line


def read_plain(path: Path, bad: BadRows | None = None) -> Iterator[TraceRequest]:
    """Yields requests in order of arrival. Raises TraceError."""
    bad = bad or BadRows()
    last_s: dict[str, float] = {}
    for request, _ in in_order(json_rows(path, bad), lambda row: _stamped(row, last_s), bad, "arrival_s"):
        yield request


def _stamped(row: Row, last_s: dict[str, float]) -> tuple[float, TraceRequest]:
    """`last_s`: session -> stamp of the turn before, which one without an arrival has too."""
    for field in row.values:
        if field not in FIELDS:
            raise row.error(field, f"is unknown; there are {', '.join(FIELDS)}")
    text, session = _text(row, "text"), _text(row, "session")
    input_tokens = max(1, len(text) // CHARACTERS_PER_TOKEN)
    if "input_tokens" in row.values or not text:
        input_tokens = row.tokens("input_tokens", least=1)
    has_blocks = row.values.get("block_ids") is not None
    block_tokens = row.whole("block_tokens", 1, MAX_TOKENS) if has_blocks else 0
    block_ids = row.block_ids("block_ids", input_tokens, block_tokens) if has_blocks else []
    request = TraceRequest(
        arrival_s=0.0,
        input_tokens=input_tokens,
        output_tokens=row.tokens("output_tokens"),
        block_ids=array("q", block_ids),
        block_tokens=block_tokens if block_ids else 0,
        session=session,
        think_s=0.0 if row.values.get("think_s") is None else row.seconds("think_s"),
        text=text,
    )
    follows = "arrival_s" not in row.values and session in last_s
    stamp_s = last_s[session] if follows else row.seconds("arrival_s")
    if session:
        last_s[session] = stamp_s
    return stamp_s, request


def _text(row: Row, field: str) -> str:
    value = row.values.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise row.error(field, "is not text; expected a string")
    return value
