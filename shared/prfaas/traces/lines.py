"""Lines of a trace file, whatever it is: plain or gzipped (told by its content), with or without a byte order mark."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prfaas.traces.bad_rows import BadRows
from prfaas.traces.errors import TraceError, shown_path

MAX_LINE_BYTES = 64 << 20
"""Longest line that is read: a session of an agentic trace is one line of some 36 KB."""
_GZIP_MAGIC = b"\x1f\x8b"


class Line(NamedTuple):
    number: int
    """Counts from 1, blank lines too."""
    text: str


def read_lines(path: Path, bad: BadRows | None = None) -> Iterator[Line]:
    """Yields every line that is not blank, without its end. Raises TraceError; lines that are no text may be left out."""
    bad = bad or BadRows()
    number = 0
    try:
        with path.open("rb") as file:
            packed = file.peek(len(_GZIP_MAGIC))[: len(_GZIP_MAGIC)] == _GZIP_MAGIC
            content = gzip.GzipFile(fileobj=file) if packed else file
            while raw := content.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(raw) > MAX_LINE_BYTES:
                    raise TraceError(path, f"the line has more than {MAX_LINE_BYTES >> 20} MiB", line=number)
                try:
                    text = _decoded(raw, path, number)
                except TraceError as error:
                    bad.leave_out(error)
                    continue
                if text.strip():
                    yield Line(number, text)
    except EOFError:
        raise TraceError(path, "the gzip file ends early: it was cut off", line=number + 1) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise TraceError(path, f"the gzip file is damaged: {error}", line=number + 1) from error
    except OSError as error:
        raise TraceError(path, f"the file cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(None, f"trace {shown_path(path)!r}: this is no file name: {error}") from error


def _decoded(raw: bytes, path: Path, number: int) -> str:
    if number == 1:
        raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        found = f"byte {error.start + 1} of the line is 0x{raw[error.start]:02x}"
        raise TraceError(path, f"the text is not UTF-8: {found}", line=number) from error
