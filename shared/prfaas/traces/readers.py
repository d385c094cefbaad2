"""Readers of three public trace formats, plain or gzipped. All are iterators: a whole agentic trace is too large to hold.

A row that is not as expected raises TraceError with the file, the line and what was wrong.
"""

import csv
import gzip
import json
from array import array
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from prfaas.traces.request import TraceRequest

MOONCAKE_BLOCK_TOKENS = 512
_SESSION_ID_SPACE = 1 << 32


class TraceError(ValueError):
    """A trace file that cannot be read; the message says where and why."""


def read_mooncake(path: Path) -> Iterator[TraceRequest]:
    """JSON lines {timestamp in ms, input_length, output_length, hash_ids of 512-token blocks}."""
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            with _explain(path, number):
                row = json.loads(line)
                yield TraceRequest(
                    arrival_s=row["timestamp"] / 1e3,
                    input_tokens=int(row["input_length"]),
                    output_tokens=int(row["output_length"]),
                    block_ids=array("q", row["hash_ids"]),
                    block_tokens=MOONCAKE_BLOCK_TOKENS,
                )


def read_azure(path: Path) -> Iterator[TraceRequest]:
    """CSV with the header TIMESTAMP,ContextTokens,GeneratedTokens; nothing is known of shared prefixes."""
    with _open(path) as lines:
        start: datetime | None = None
        for number, row in enumerate(csv.DictReader(lines), start=2):
            with _explain(path, number):
                # Seven fractional digits: one more than datetime reads.
                stamp = datetime.fromisoformat(row["TIMESTAMP"][:26])
                start = start or stamp
                yield TraceRequest(
                    arrival_s=(stamp - start).total_seconds(),
                    input_tokens=int(row["ContextTokens"]),
                    output_tokens=int(row["GeneratedTokens"]),
                )


def read_agentx(path: Path) -> Iterator[TraceRequest]:
    """The compact re-encoding of kv-cache-tester's agentic traces: one session a line, block lists as differences.

    A row is [t, type, in, out, keep, runs, think, api, model, stop]; its block ids are the previous row's first `keep` and then
    the runs (start, length, ...). A sub-agent {"sub": rows, "t": start} is a session of its own, `<session>/<n>`, that shares
    its parent's blocks. Requests of a session and its sub-agents come in order of time."""
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            with _explain(path, number):
                session = json.loads(line)
                base = number * _SESSION_ID_SPACE
                rows = list(_agentx_rows(session["requests"], session["id"], 0.0, base, int(session["block_size"])))
                yield from sorted(rows, key=lambda request: request.arrival_s)


def _agentx_rows(rows: list[Any], session: str, start_s: float, base: int, block_tokens: int) -> Iterator[TraceRequest]:
    block_ids = array("q")
    agents = 0
    for row in rows:
        if isinstance(row, dict):
            agents += 1
            yield from _agentx_rows(row["sub"], f"{session}/{agents}", start_s + row["t"], base, block_tokens)
            continue
        at_s, _, input_tokens, output_tokens, keep, runs, think_s, *_ = row
        block_ids = block_ids[:keep]
        for first, length in zip(runs[::2], runs[1::2], strict=True):
            block_ids.extend(range(base + first, base + first + length))
        yield TraceRequest(
            arrival_s=start_s + at_s,
            input_tokens=int(input_tokens),
            output_tokens=int(output_tokens),
            block_ids=block_ids,
            block_tokens=block_tokens,
            session=session,
            think_s=float(think_s or 0.0),
        )


FORMATS: dict[str, Callable[[Path], Iterator[TraceRequest]]] = {
    "mooncake": read_mooncake,
    "azure": read_azure,
    "agentx": read_agentx,
}


def read_trace(path: Path, format: str) -> Iterator[TraceRequest]:
    """Raises TraceError, at once for an unknown format and later for rows that cannot be read."""
    if format not in FORMATS:
        raise TraceError(f"there is no trace format {format}; there are {', '.join(sorted(FORMATS))}.")
    return FORMATS[format](path)


def _open(path: Path) -> TextIO:
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="utf-8", newline="")
        return path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise TraceError(f"trace {path} cannot be read: {error.strerror}.") from error


class _explain:
    """Turns what a malformed row raises into a TraceError with its place."""

    def __init__(self, path: Path, line: int) -> None:
        self.path, self.line = path, line

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError):
            raise TraceError(f"trace {self.path}, line {self.line}: the field {error} is missing.") from error
        if isinstance(error, ValueError | TypeError | IndexError):
            raise TraceError(f"trace {self.path}, line {self.line}: {error}.") from error
