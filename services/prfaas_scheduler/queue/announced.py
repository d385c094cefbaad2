"""State of a site's queue, as it was announced, and the wait behind it as of now."""

from dataclasses import dataclass, field

SILENT_S = 3.0
"""Age of an announcement beyond which nothing is known of the queue: its dispatcher is gone, and workers serve themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """Announcement of a site's queue."""

    site: str
    due_s: float
    """Work of the jobs that wait and are to be in time, over all workers."""
    running_s: float
    """Work left of the jobs that run, over all workers."""
    ready: int
    """Workers that wait for a job."""
    seen_at: float
    """Moment of this state, on the clock of who hears it."""


@dataclass(slots=True)
class SeenQueue:
    """Last announcement, and what was placed there by this scheduler since."""

    state: QueueState
    placed: list[tuple[float, float]] = field(default_factory=list)
    """(moment, work) of placements that the announcement does not show."""

    def update(self, state: QueueState) -> None:
        self.state = state
        self.placed = [each for each in self.placed if each[0] > state.seen_at]

    def is_silent(self, now_s: float) -> bool:
        return now_s - self.state.seen_at > SILENT_S

    def place(self, work_s: float, now_s: float) -> None:
        self.placed.append((now_s, work_s))

    def wait_s(self, workers: int, now_s: float) -> float:
        """Wait of the next job behind those that are to be in time: their work, spread over the workers. Least of all 0, for a
        worker that is ready."""
        state = self.state
        if len(self.placed) < state.ready:
            return 0.0
        work_s = state.due_s + state.running_s + sum(work_s for _, work_s in self.placed)
        return max(0.0, work_s / max(1, workers) - (now_s - state.seen_at))
