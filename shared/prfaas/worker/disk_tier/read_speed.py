"""Time to read files of the tier, as it was observed."""

_FADING = 0.9


class ReadSpeed:
    def __init__(self) -> None:
        self._bytes = self._seconds = 0.0

    @property
    def bytes_per_s(self) -> float:
        """0 before anything was read."""
        return self._bytes / self._seconds if self._seconds else 0.0

    def observe(self, size_bytes: int, seconds: float) -> None:
        self._bytes = self._bytes * _FADING + size_bytes
        self._seconds = self._seconds * _FADING + seconds

    def seconds(self, size_bytes: int) -> float:
        """Predicts the time to read a number of bytes, s. Before anything was read it is none: the first file is read to know."""
        return size_bytes * self._seconds / self._bytes if self._bytes else 0.0
