"""Load of a decode worker: the batch that keeps the objective of time per output token, and the wait for a place in it."""

from bisect import bisect_right

from prfaas.capacity.observed import extrapolated
from prfaas.contracts.to_scheduler import Heartbeat


def batch_limit(beat: Heartbeat, tpot_objective_s: float) -> int:
    """Returns the largest batch whose steps keep the objective, by the steps that were observed: at least 1, at most the worker's
    slots. Without an objective (0) or an observation it is the slots."""
    points = beat.step_points
    if not tpot_objective_s or not points:
        return max(1, beat.slots)
    batches = range(1, beat.slots + 1)
    return max(1, bisect_right(batches, tpot_objective_s, key=lambda batch: extrapolated(points, batch) or 0.0))


def place_wait_s(beat: Heartbeat, load: int, limit: int) -> float:
    """Time until the next request has a place in a batch of `limit`, if all `load` requests of the worker come before it, s.

    Places become free as answers of the mean length end. 0 while length or steps are not known."""
    ahead = load + 1 - limit
    step_s = extrapolated(beat.step_points, limit)
    return ahead * step_s * beat.output_tokens / limit if ahead > 0 and step_s is not None else 0.0
