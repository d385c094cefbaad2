"""Circuit breaker: stops offloading over a link that fails, and finds out by single requests when it works again."""

from enum import StrEnum

FAILURES_TO_OPEN = 3
"""Failures in a row that open the breaker. One failure is a request's own bad luck; it has fallen back already."""
FIRST_PAUSE_S = 2.0
MAX_PAUSE_S = 8.0
"""Longest pause between two trials; below the 10 s within which offloading should resume after a repair."""


FIRST_DISTRUST_S, MAX_DISTRUST_S = 600.0, 86_400.0
"""Shortest and longest time without requests for a site whose KV was found wrong. It doubles each time."""


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Breaker of one remote site. Half-open, it allows one request at a time."""

    def __init__(self) -> None:
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._open_until: float | None = None
        self._trial: str | None = None
        """Request that tries the link while half-open."""
        self._distrust_s = FIRST_DISTRUST_S
        self._distrusted_until: float | None = None

    def distrusts(self, now_s: float) -> bool:
        """True when the site made wrong KV, and its time is not over. Successes do not shorten it: the site said so of itself."""
        return self._distrusted_until is not None and now_s < self._distrusted_until

    def distrust(self, now_s: float) -> None:
        """Opens the breaker for a site whose KV was found wrong."""
        if not self.distrusts(now_s):
            self._distrusted_until = now_s + self._distrust_s
            self._distrust_s = min(2 * self._distrust_s, MAX_DISTRUST_S)

    def state(self, now_s: float) -> BreakerState:
        if self.distrusts(now_s):
            return BreakerState.OPEN
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_s < self._open_until else BreakerState.HALF_OPEN

    @property
    def idle(self) -> bool:
        """True when there is nothing to remember: no failure since the last success, and never a reason for distrust."""
        return self._open_until is None and not self._failures and self._distrusted_until is None

    def allows(self, now_s: float) -> bool:
        state = self.state(now_s)
        return state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and self._trial is None)

    def placed(self, request_id: str, now_s: float) -> None:
        if self.state(now_s) is BreakerState.HALF_OPEN:
            self._trial = request_id

    def succeeded(self) -> None:
        self._failures, self._pause_s = 0, FIRST_PAUSE_S
        self._open_until, self._trial = None, None

    def failed(self, request_id: str, now_s: float) -> None:
        self._failures += 1
        if self._trial == request_id:
            self._trial = None
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
            self._open_until = now_s + self._pause_s
        elif self._failures >= FAILURES_TO_OPEN and self._open_until is None:
            self._open_until = now_s + self._pause_s

    def link_is_back(self, now_s: float) -> None:
        """The link was measured again after a silence: the next trial need not wait."""
        self._pause_s = FIRST_PAUSE_S
        if self._open_until is not None:
            self._open_until = min(self._open_until, now_s)

    def abandoned(self, request_id: str) -> None:
        """The request ended without saying anything about the link, for example because its client left."""
        if self._trial == request_id:
            self._trial = None
