"""Failure of reading a trace, as a sentence with its place."""

from pathlib import Path

_SHOWN_CHARACTERS = 60


class TraceError(ValueError):
    """Raised for a trace file that cannot be read: it names the file and, where there is one, the line and the field."""

    def __init__(self, path: Path | None, problem: str, *, line: int | None = None, field: str | None = None) -> None:
        where = "" if path is None else f"trace {shown_path(path)}" + (f", line {line}" if line else "") + ": "
        what = "" if field is None else f"field {field} "
        super().__init__(f"{where}{what}{problem}.")
        self.path = path
        self.line = line
        self.field = field
        self.problem = problem


def shown(value: object) -> str:
    """Returns `value` as it may stand in a sentence: on one line and short."""
    try:
        text = value.strip() if isinstance(value, str) else str(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python prints, or a nest deeper than it walks
        return f"a {type(value).__name__} that is too large to print"
    text = text.encode("unicode_escape").decode("ascii")
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def shown_path(path: Path) -> str:
    """Returns `path` in one printable line, whatever bytes it is made of."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\n", "\\n")
