"""Qwen-Bailian's traces: JSON lines {chat_id, parent_chat_id, timestamp in s, input_length, output_length, hash_ids}.

Blocks have 16 tokens. A request whose parent_chat_id is -1 begins a conversation; the others belong to their parent's.
"""

from array import array
from collections.abc import Collection, Iterator
from pathlib import Path

from prfaas.traces.request import TraceRequest
from prfaas.traces.rows import Row, in_order, json_rows

BAILIAN_BLOCK_TOKENS = 16
NO_PARENT = -1
_IDS = 1 << 62


def recognise_bailian(first_line: str) -> bool:
    return first_line.lstrip().startswith("{") and '"chat_id"' in first_line and '"input_length"' in first_line


def read_bailian(path: Path, skip: Collection[int] = ()) -> Iterator[TraceRequest]:
    """Yields requests in order of arrival. Raises TraceError."""
    roots: dict[int, int] = {}
    for arrival_s, row in in_order(((row.seconds("timestamp"), row) for row in json_rows(path, skip)), "timestamp"):
        input_tokens = row.tokens("input_length", least=1)
        block_ids = row.block_ids("hash_ids", input_tokens, BAILIAN_BLOCK_TOKENS)
        yield TraceRequest(
            arrival_s=arrival_s,
            input_tokens=input_tokens,
            output_tokens=row.tokens("output_length"),
            block_ids=array("q", block_ids),
            block_tokens=BAILIAN_BLOCK_TOKENS if block_ids else 0,
            session=_session(row, roots),
        )


def _session(row: Row, roots: dict[int, int]) -> str:
    """Returns the conversation's first chat_id; of a parent before the trace's start, the parent's own."""
    chat = row.whole("chat_id", 0, _IDS)
    parent = row.whole("parent_chat_id", NO_PARENT, _IDS)
    roots[chat] = chat if parent == NO_PARENT else roots.get(parent, parent)
    return str(roots[chat])
