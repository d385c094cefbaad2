"""What a worker tells the schedulers that share it. None hears of the others' placements, but each hears of the queue."""

from prfaas.capacity.observed import ObservedTimes, interpolated

NEWEST = 0.1
"""Weight of the newest job in the mean."""


class SharedQueue:
    """Times are the caller's clock."""

    def __init__(self, observed: ObservedTimes) -> None:
        self.waiting = 0
        """Jobs in the site's queue that nobody has taken."""
        self._observed = observed
        self._mean_s = 0.0
        self._ends_s = 0.0

    def take(self, tokens: int, now_s: float) -> None:
        """A job of so many tokens to compute."""
        work_s = interpolated(self._observed.points(), tokens) or 0.0
        self._mean_s += (work_s - self._mean_s) * (NEWEST if self._mean_s else 1.0)
        self._ends_s = now_s + work_s

    def idle(self) -> None:
        """The worker has asked for a job and got none."""
        self._ends_s = 0.0

    def busy_s(self, now_s: float) -> float:
        """What is left of the job in hand; 0 of one that takes longer than it should."""
        return max(0.0, self._ends_s - now_s)

    @property
    def queued_s(self) -> float:
        """Work that waits for any worker of the site, by the mean of those that this one took."""
        return self.waiting * self._mean_s
