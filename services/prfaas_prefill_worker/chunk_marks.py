"""Moments at which the chunks of one prefill were computed. Pure: moments come in, in s."""

from prfaas.contracts.marks import CourseMarks


class ChunkMarks:
    """Takes the pieces of a prefill as the engine hands them out: all layers of one chunk, then those of the next."""

    def __init__(self, started_at: float) -> None:
        self._started_at = started_at
        self._course = CourseMarks()
        self._end_token = 0
        self._computed_at = started_at

    def piece(self, end_token: int, now_s: float) -> None:
        """Takes one layer's piece, which ends at `end_token`."""
        if end_token > self._end_token:
            self._mark()
            self._end_token = end_token
        self._computed_at = now_s

    def marks(self) -> tuple[tuple[float, float], ...]:
        """Returns (seconds since the start, tokens computed by then) once the prefill has ended."""
        self._mark()
        return self._course.marks()

    def _mark(self) -> None:
        if self._end_token:
            self._course.add(self._computed_at - self._started_at, self._end_token)
