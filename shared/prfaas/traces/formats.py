"""Every trace format that can be read, and which one a file has.

A new format is a module with a `recognise_x(first_line)` and a `read_x(path, bad)`, and its line in FORMATS.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from prfaas.traces.agentx import read_agentx, recognise_agentx
from prfaas.traces.azure import read_azure, recognise_azure
from prfaas.traces.bad_rows import BadRows
from prfaas.traces.bailian import read_bailian, recognise_bailian
from prfaas.traces.burstgpt import read_burstgpt, recognise_burstgpt
from prfaas.traces.errors import TraceError, shown, shown_path
from prfaas.traces.lines import read_lines
from prfaas.traces.mooncake import read_mooncake, recognise_mooncake
from prfaas.traces.plain import read_plain, recognise_plain
from prfaas.traces.request import TraceRequest


class TraceFormat(NamedTuple):
    recognise: Callable[[str], bool]
    """Tells whether a file whose first line this is has the format."""
    read: Callable[[Path, BadRows | None], Iterator[TraceRequest]]
    """Yields the requests of a file but those that may be left out because they cannot be read."""
    one_clock: bool = True
    """True when arrivals of different sessions count from the same moment."""


FORMATS: dict[str, TraceFormat] = {
    "bailian": TraceFormat(recognise_bailian, read_bailian),
    "mooncake": TraceFormat(recognise_mooncake, read_mooncake),
    "azure": TraceFormat(recognise_azure, read_azure),
    "agentx": TraceFormat(recognise_agentx, read_agentx, one_clock=False),
    "burstgpt": TraceFormat(recognise_burstgpt, read_burstgpt),
    "plain": TraceFormat(recognise_plain, read_plain),
}
"""Order matters: a Bailian row has all that a Mooncake row has."""
MAX_TRIED_LINES = 100
"""Lines that are looked at to recognise a file whose first ones are damaged."""


def recognise_format(path: Path, lines: int = 1) -> str:
    """Returns the name of the format that the file's first line shows, or one of its first `lines`. Raises TraceError."""
    if _is_pipe(path):
        # Reading it here would take its first line away from the reader.
        raise TraceError(path, f"the format of a pipe is not recognised; name one of {_names()}")
    # What is no text is met again, and counted, when the file is read.
    found = list(islice(read_lines(path, BadRows(lines - 1)), min(lines, MAX_TRIED_LINES)))
    if not found:
        raise TraceError(path, "the file is empty")
    for line in found:
        for name, format in FORMATS.items():
            if format.recognise(line.text):
                return name
    first = found[0]
    raise TraceError(path, f'"{shown(first.text)}" begins no format that is known; there are {_names()}', line=first.number)


def read_trace(path: Path, format: str | None = None, bad: BadRows | None = None) -> Iterator[TraceRequest]:
    """Yields the trace's requests; without a `format` the file shows which it is. `bad`: what may be left out.

    Raises TraceError: at once for an unknown format, while reading for a row that cannot be read."""
    if format is not None and format not in FORMATS:
        raise TraceError(None, f"trace {shown_path(path)}: there is no trace format {shown(format)}; there are {_names()}")
    return FORMATS[format or recognise_format(path)].read(path, bad)


def _is_pipe(path: Path) -> bool:
    try:
        return path.is_fifo()
    except OSError:  # such as a name that is too long: opening it says so
        return False


def _names() -> str:
    return ", ".join(sorted(FORMATS))
