"""One request of a trace, and what may be done to a trace without breaking its structure."""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple


class TraceRequest(NamedTuple):
    arrival_s: float
    """Seconds after the trace's start; in a session trace after the session's start (sessions there have no common clock)."""
    input_tokens: int
    output_tokens: int
    block_ids: Sequence[int] = ()
    """Names of the prompt's blocks in order; equal ids have equal content, and everything before them too. Unique over the
    whole trace. Empty where the trace does not say."""
    block_tokens: int = 0
    """Tokens in a block, the last one of a prompt may be partial; 0 without block_ids."""
    session: str = ""
    """Requests of one session come one after the other, each after the answer to the last one."""
    think_s: float = 0.0
    """Pause between the previous answer of the session and this request."""


def scaled(requests: Iterable[TraceRequest], divisor: int) -> Iterator[TraceRequest]:
    """Lengths and block size divided by the same `divisor` (rounded up), so block structure and reuse ratios stay.

    Raises ValueError when a block cannot be divided."""
    if divisor < 1:
        raise ValueError(f"lengths are divided by a whole number of at least 1, not {divisor}.")
    for request in requests:
        if request.block_tokens % divisor:
            raise ValueError(f"a block of {request.block_tokens} tokens cannot be divided by {divisor}.")
        yield request._replace(
            input_tokens=-(-request.input_tokens // divisor),
            output_tokens=-(-request.output_tokens // divisor),
            block_tokens=request.block_tokens // divisor,
        )


def sped_up(requests: Iterable[TraceRequest], factor: float) -> Iterator[TraceRequest]:
    """Arrivals and pauses `factor` times as fast. Raises ValueError when the factor is not positive."""
    if not factor > 0:
        raise ValueError(f"a trace is sped up by a positive factor, not {factor}.")
    for request in requests:
        yield request._replace(arrival_s=request.arrival_s / factor, think_s=request.think_s / factor)


def spread_arrivals(requests: Iterable[TraceRequest], *, bucket_s: float, seed: int) -> Iterator[TraceRequest]:
    """Every arrival moved to a uniform place in the `bucket_s` after its stamp; order within a stamp is kept.

    For traces whose stamps are rounded (Mooncake's to about 3 s): raw, their burstiness is an artefact. `requests` must be in
    order of arrival."""
    source = random.Random(seed)
    for stamp_s, group in groupby(requests, key=lambda request: request.arrival_s):
        bucket = list(group)
        offsets_s = sorted(source.uniform(0, bucket_s) for _ in bucket)
        for request, offset_s in zip(bucket, offsets_s, strict=True):
            yield request._replace(arrival_s=stamp_s + offset_s)
