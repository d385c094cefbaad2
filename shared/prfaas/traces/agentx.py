"""The compact re-encoding of kv-cache-tester's agentic traces: one session a line, block lists as differences.

A row is [t, type, in, out, keep, runs, think, api, model, stop]; its block ids are the previous row's first `keep` and then
the runs (start, length, ...). A sub-agent {"sub": rows, "t": start} is a session of its own, `<session>/<n>`, that shares
its parent's blocks.
"""

from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prfaas.traces.bad_rows import BadRows
from prfaas.traces.errors import TraceError
from prfaas.traces.request import TraceRequest
from prfaas.traces.rows import MAX_TOKENS, Row, json_rows

COLUMNS = ("t", "type", "in", "out", "keep", "runs", "think")
"""Leading fields of a row, the last of which may be absent; what follows is not read."""
MAX_SUB_AGENT_DEPTH = 16
_SESSION_ID_SPACE = 1 << 32
_MAX_LINES = 1 << 30
"""Lines whose block ids fit into 63 bits."""


def recognise_agentx(first_line: str) -> bool:
    return first_line.lstrip().startswith("{") and '"block_size"' in first_line and '"requests"' in first_line


def read_agentx(path: Path, bad: BadRows | None = None) -> Iterator[TraceRequest]:
    """Yields requests session by session, those of a session and its sub-agents in order of time. Raises TraceError."""
    bad = bad or BadRows()
    for row in json_rows(path, bad):
        try:
            requests = _requests(row)
        except TraceError as error:
            bad.leave_out(error)
            continue
        yield from requests


def _requests(row: Row) -> list[TraceRequest]:
    """Returns one session, which is one line. Raises TraceError."""
    if row.line > _MAX_LINES:
        raise row.error("id", f"is beyond the {_MAX_LINES} sessions that are read")
    session = row.value("id", "a name")
    if not isinstance(session, str):
        raise row.error("id", "is not text; expected a name")
    block_tokens = row.whole("block_size", 1, MAX_TOKENS)
    requests = _Session(row, block_tokens).read(row.items("requests"), "requests", session, 0.0, 0)
    return sorted(requests, key=lambda request: request.arrival_s)


class _Session:
    def __init__(self, row: Row, block_tokens: int) -> None:
        self._row = row
        self._base = row.line * _SESSION_ID_SPACE
        self._block_tokens = block_tokens

    def read(self, rows: Any, field: str, session: str, start_s: float, depth: int) -> Iterator[TraceRequest]:
        """Yields what one agent and its sub-agents asked; `rows` stands in the field `field`."""
        if depth > MAX_SUB_AGENT_DEPTH:
            raise self._row.error(field, f"holds sub-agents more than {MAX_SUB_AGENT_DEPTH} deep")
        block_ids = array("q")
        agents = 0
        for index, values in enumerate(rows):
            place = f"{field}[{index}]"
            if isinstance(values, dict):
                agents += 1
                sub = self._row._replace(values=values, prefix=f"{place}.")
                sub_start_s = start_s + sub.seconds("t")
                yield from self.read(sub.items("sub"), f"{place}.sub", f"{session}/{agents}", sub_start_s, depth + 1)
                continue
            if not isinstance(values, list):
                raise self._row.error(place, "is neither a request nor a sub-agent; expected a list or an object")
            row = self._row._replace(values=dict(zip(COLUMNS, values, strict=False)), prefix=f"{place}.")
            block_ids = self._blocks(row, block_ids)
            yield TraceRequest(
                arrival_s=start_s + row.seconds("t"),
                input_tokens=row.tokens("in", least=1),
                output_tokens=row.tokens("out"),
                block_ids=block_ids,
                block_tokens=self._block_tokens,
                session=session,
                think_s=_think_s(row, row.values),
            )

    def _blocks(self, row: Row, before: "array[int]") -> "array[int]":
        keep = row.whole("keep", 0, len(before))
        runs = row.items("runs")
        if len(runs) % 2:
            raise row.error("runs", f"has {len(runs)} numbers; expected pairs of first block and length")
        numbers = [row._replace(values={"runs": number}).whole("runs", 0, _SESSION_ID_SPACE - 1) for number in runs]
        # Counted before they are listed: a run of a billion blocks is a few bytes of text.
        count, most = keep + sum(numbers[1::2]), MAX_TOKENS // self._block_tokens
        if count > most:
            raise row.error("runs", f"makes {count} blocks; expected at most {most} of {self._block_tokens} tokens each")
        block_ids = before[:keep]
        for first, length in zip(numbers[::2], numbers[1::2], strict=True):
            if first + length > _SESSION_ID_SPACE:
                raise row.error("runs", f"names block {first + length}; expected numbers below {_SESSION_ID_SPACE}")
            block_ids.extend(range(self._base + first, self._base + first + length))
        return block_ids


def _think_s(row: Row, values: Mapping[str, Any]) -> float:
    return 0.0 if values.get("think") is None else row.seconds("think")
