"""Times that an engine takes to compute the chunks of one prefill, without those for which the link held it up. Pure."""

from prfaas.kvcache.compute_speed import ComputeSpeed


class ChunkTimes:
    """Takes the pieces of a prefill as the engine hands them out. A chunk takes from its first piece to the next chunk's."""

    def __init__(self, speed: ComputeSpeed) -> None:
        self._speed = speed
        self._start = self._end = 0
        self._first_at: float | None = None
        self._held_s = 0.0

    def begin(self, cached_tokens: int) -> None:
        """Says where computing begins: what is cached is handed out in no time."""
        self._start = self._end = cached_tokens

    def piece(self, end_token: int, now_s: float) -> None:
        if end_token <= self._end:
            return
        if self._first_at is not None:
            self._speed.observe(self._start, self._end, max(0.0, now_s - self._first_at - self._held_s))
        self._start, self._end = self._end, end_token
        self._first_at, self._held_s = now_s, 0.0

    def held(self, seconds: float) -> None:
        """Takes the time for which one piece was not let go of."""
        self._held_s += seconds
