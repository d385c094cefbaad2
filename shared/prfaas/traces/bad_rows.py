"""Rows of a trace that cannot be read: the first one ends the reading, or up to a number of them are left out."""

from prfaas.traces.errors import TraceError


class BadRows:
    """Counts what one reading of a file leaves out."""

    def __init__(self, allowed: int = 0) -> None:
        self._allowed = allowed
        self.lines: list[int] = []
        """Lines that were left out, in order."""

    def leave_out(self, error: TraceError) -> None:
        """Notes the row of an error. Raises the error when it is of no row, or no more rows may be left out."""
        if error.line is None or len(self.lines) >= self._allowed:
            raise error
        self.lines.append(error.line)
