"""Floor under the share of each length class: the rule that the longest give way would leave the long prompts with little.

When a class gets less than the floor of what the best one gets, newcomers of the other classes must leave time: they are
accepted as if they had to begin some seconds earlier. The queue then is shorter, so that a long prompt, which must begin early,
finds it short enough. These seconds grow while a class is below the floor, and shrink slowly when none is.
"""

from prfaas_scheduler.queue.objectives import CLASS_NAMES, length_class

FADE = 0.998
"""Factor on all counts with each arrival: they are of the last 500 jobs."""
MIN_JOBS = 5.0
"""Jobs below which a class's share says nothing."""
UP_S, DOWN_S = 0.02, 0.02
"""Change of the time to leave with each arrival."""
MAX_S = 5.0


class ClassFloor:
    def __init__(self, floor: float) -> None:
        """`floor`: least share of a class, of the best class's share; 0: no floor."""
        self._floor = floor
        self._offered = [0.0] * len(CLASS_NAMES)
        self._missed = [0.0] * len(CLASS_NAMES)
        self._below = [False] * len(CLASS_NAMES)
        self._leave_s = 0.0

    def arrived(self, tokens: int) -> None:
        for index in range(len(CLASS_NAMES)):
            self._offered[index] *= FADE
            self._missed[index] *= FADE
        self._offered[length_class(tokens)] += 1
        shares = {index: 1 - self._missed[index] / offered for index, offered in enumerate(self._offered) if offered >= MIN_JOBS}
        least = self._floor * max(shares.values(), default=0.0)
        self._below = [shares.get(index, 1.0) < least for index in range(len(CLASS_NAMES))]
        self._leave_s = min(self._leave_s + UP_S, MAX_S) if any(self._below) else max(0.0, self._leave_s - DOWN_S)

    def missed(self, tokens: int) -> None:
        """Notes that a job was refused or put off."""
        self._missed[length_class(tokens)] += 1

    def leave_s(self, tokens: int) -> float:
        """Seconds that a newcomer must leave to the classes below the floor."""
        return 0.0 if self._below[length_class(tokens)] else self._leave_s
