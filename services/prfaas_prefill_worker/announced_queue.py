"""Work in queue and in hand, told to schedulers that share a worker: they do not hear of one another's placements."""

from prfaas.capacity.observed import ObservedTimes, interpolated

NEWEST = 0.1
"""Weight of the newest job in the mean work of a job."""


class SharedQueue:
    """Moments are on the caller's clock."""

    def __init__(self, observed: ObservedTimes) -> None:
        self.waiting = 0
        """Jobs in the site's queue that no worker has taken."""
        self._observed = observed
        self.running = 0
        """Jobs in hand, 0 or 1."""
        self._mean_s = 0.0
        self._ends_at = 0.0

    def take(self, tokens: int, now_s: float) -> None:
        """Notes a job of `tokens` tokens to compute."""
        work_s = interpolated(self._observed.points(), tokens) or 0.0
        self._mean_s += (work_s - self._mean_s) * (NEWEST if self._mean_s else 1.0)
        self._ends_at = now_s + work_s
        self.running = 1

    def idle(self) -> None:
        """Notes that the worker has asked for a job and got none."""
        self._ends_at = 0.0
        self.running = 0

    def busy_s(self, now_s: float) -> float:
        """Rest of the job in hand; 0 when it takes longer than predicted."""
        return max(0.0, self._ends_at - now_s)

    @property
    def queued_s(self) -> float:
        """Work that waits for any worker of the site: jobs waiting times the mean of those that this one took."""
        return self.waiting * self._mean_s
