"""Course of a count over time, in few marks. Pure."""

from typing import Final

MAX_MARKS: Final = 64


class CourseMarks:
    """Marks of a count that grows. When there are too many, every other one goes, and from then on only each second change is
    kept, each fourth, and on: the last one always is. Times are s since one beginning."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, float]] = []
        self._last: tuple[float, float] | None = None
        self._every = 1
        self._seen = 0

    def add(self, after_s: float, count: float) -> None:
        self._last = (max(0.0, after_s), count)
        self._seen += 1
        if self._seen % self._every:
            return
        self._kept.append(self._last)
        if len(self._kept) >= MAX_MARKS:
            self._kept = self._kept[1::2]
            self._every *= 2

    def marks(self) -> tuple[tuple[float, float], ...]:
        """Returns at most MAX_MARKS marks, as contracts.fields.Marks has them."""
        if self._last is None or (self._kept and self._kept[-1] == self._last):
            return tuple(self._kept)
        return (*self._kept, self._last)
