"""Changes to a workload that keep its structure: time, lengths and how much of it is taken.

Each function takes and yields TraceRequests in the same order; `shaped` applies them in the one order that makes sense.
"""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import islice, takewhile

import msgspec

from prfaas.traces import TraceRequest, scaled, sped_up, spread_arrivals


class ShapeError(ValueError):
    """A shape that cannot be had of this workload; the message is a sentence."""


class Shape(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    divide_lengths: int = 1
    """Divisor of lengths and block sizes together."""
    max_input_tokens: int | None = None
    """Longest prompt, as it is sent. A session ends before its first one that is longer."""
    spread_arrivals_s: float | None = None
    """Width of the buckets that the trace's stamps were rounded to."""
    speed: float = 1.0
    duration_s: float | None = None
    """Longest time after the run's start at which a request arrives."""
    max_requests: int | None = None
    seed: int = 1


def shaped(requests: Iterable[TraceRequest], shape: Shape) -> Iterator[TraceRequest]:
    """Yields the requests in the shape. Raises ShapeError, also while it yields."""
    try:
        if shape.divide_lengths != 1:
            requests = scaled(_without_text(requests), shape.divide_lengths)
        if shape.max_input_tokens is not None:
            requests = without_long_prompts(requests, shape.max_input_tokens)
        if shape.spread_arrivals_s is not None:
            spread = spread_arrivals(requests, bucket_s=shape.spread_arrivals_s, seed=shape.seed)
            requests = sorted_within(spread, shape.spread_arrivals_s)
        if shape.speed != 1.0:
            requests = sped_up(requests, shape.speed)
        if shape.duration_s is not None:
            duration_s = shape.duration_s
            requests = takewhile(lambda request: request.arrival_s < duration_s, requests)
        yield from islice(requests, shape.max_requests)
    except ShapeError:
        raise
    except ValueError as error:
        # What the trace's own functions refuse: a divisor, a factor. A TraceError keeps its class.
        if type(error) is not ValueError:
            raise
        raise ShapeError(str(error)) from error


def without_long_prompts(requests: Iterable[TraceRequest], max_input_tokens: int) -> Iterator[TraceRequest]:
    """Leaves out prompts above the limit, and all that follow one in its session: they contain it."""
    ended: set[str] = set()
    for request in requests:
        if request.input_tokens > max_input_tokens:
            if request.session:
                ended.add(request.session)
        elif request.session not in ended:
            yield request


def sorted_within(requests: Iterable[TraceRequest], late_s: float) -> Iterator[TraceRequest]:
    """Sorts by arrival what is out of order by at most `late_s`; equal arrivals keep their order."""
    waiting: list[tuple[float, int, TraceRequest]] = []
    latest_s = float("-inf")
    for count, request in enumerate(requests):
        heappush(waiting, (request.arrival_s, count, request))
        latest_s = max(latest_s, request.arrival_s)
        while waiting and waiting[0][0] <= latest_s - late_s:
            yield heappop(waiting)[2]
    while waiting:
        yield heappop(waiting)[2]


def _without_text(requests: Iterable[TraceRequest]) -> Iterator[TraceRequest]:
    for request in requests:
        if request.text:
            raise ShapeError("lengths cannot be divided where the trace has its prompts as text.")
        yield request
