"""The reason of a process's end in one line, from the end of its log; pure."""

import json
from collections.abc import Iterable
from typing import Any

_LONGEST_CHARACTERS = 400


def last_words(lines: Iterable[str]) -> str:
    """Returns the last error that the log tells, in its own words; empty when it tells none.

    Entries are JSON; a line that is none comes from a process that failed before it had a log."""
    said = ""
    for line in lines:
        entry = _entry(line)
        if entry is None:
            said = line.strip() or said
        elif entry.get("level") in ("error", "critical"):
            said = str(entry.get("error") or entry.get("reason") or entry.get("event"))
    first = said.splitlines()[0] if said else ""
    return first if len(first) <= _LONGEST_CHARACTERS else f"{first[:_LONGEST_CHARACTERS]} ..."


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
