"""Qwen-Bailian's traces: JSON lines {chat_id, parent_chat_id, timestamp in s, input_length, output_length, hash_ids}.

Blocks have 16 tokens. A request whose parent_chat_id is -1 begins a conversation; the others belong to their parent's.
"""

from array import array
from collections.abc import Iterator
from pathlib import Path

from prfaas.traces.bad_rows import BadRows
from prfaas.traces.request import TraceRequest
from prfaas.traces.rows import Row, in_order, json_rows

BAILIAN_BLOCK_TOKENS = 16
NO_PARENT = -1
_IDS = 1 << 62


def recognise_bailian(first_line: str) -> bool:
    return first_line.lstrip().startswith("{") and '"chat_id"' in first_line and '"input_length"' in first_line


def read_bailian(path: Path, bad: BadRows | None = None) -> Iterator[TraceRequest]:
    """Yields requests in order of arrival. Raises TraceError."""
    bad = bad or BadRows()
    roots: dict[int, int] = {}
    for request, row in in_order(json_rows(path, bad), _stamped, bad, "timestamp"):
        # In order of time, whatever the file's is: a parent comes before its children.
        yield request._replace(session=_session(*_chats(row), roots))


def _stamped(row: Row) -> tuple[float, TraceRequest]:
    _chats(row)
    input_tokens = row.tokens("input_length", least=1)
    block_ids = row.block_ids("hash_ids", input_tokens, BAILIAN_BLOCK_TOKENS)
    return row.seconds("timestamp"), TraceRequest(
        arrival_s=0.0,
        input_tokens=input_tokens,
        output_tokens=row.tokens("output_length"),
        block_ids=array("q", block_ids),
        block_tokens=BAILIAN_BLOCK_TOKENS if block_ids else 0,
    )


def _chats(row: Row) -> tuple[int, int]:
    """Returns a request's own chat_id and its parent's."""
    return row.whole("chat_id", 0, _IDS), row.whole("parent_chat_id", NO_PARENT, _IDS)


def _session(chat: int, parent: int, roots: dict[int, int]) -> str:
    """Returns the conversation's first chat_id; of a parent before the trace's start, the parent's own."""
    roots[chat] = chat if parent == NO_PARENT else roots.get(parent, parent)
    return str(roots[chat])
