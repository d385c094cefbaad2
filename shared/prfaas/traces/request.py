"""One request of a trace, and changes to a trace that keep its structure."""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple


class TraceRequest(NamedTuple):
    arrival_s: float
    """Time since the trace's start. Sessions have no common clock: theirs is the time since the session's start."""
    input_tokens: int
    output_tokens: int
    block_ids: Sequence[int] = ()
    """Names of the prompt's blocks in order. Equal ids stand for equal content up to the block's end, over the whole trace.
    Empty where the trace does not say."""
    block_tokens: int = 0
    """Tokens in a block; a prompt's last block may hold fewer. 0 without block_ids."""
    session: str = ""
    """Name of a conversation: each of its requests follows the answer to the one before."""
    think_s: float = 0.0
    """Pause between the previous answer of the session and this request."""
    text: str = ""
    """Prompt itself, where the trace has it; `input_tokens` is then its length, or an estimate."""


def scaled(requests: Iterable[TraceRequest], divisor: int) -> Iterator[TraceRequest]:
    """Divides lengths (rounded up) and block sizes by `divisor`, which keeps the blocks and what is reused.

    Raises ValueError when a block size is no multiple of it."""
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
    """Divides arrival times and pauses by `factor`. Raises ValueError when it is not positive."""
    if not factor > 0:
        raise ValueError(f"a trace is sped up by a positive factor, not {factor}.")
    for request in requests:
        yield request._replace(arrival_s=request.arrival_s / factor, think_s=request.think_s / factor)


def spread_arrivals(requests: Iterable[TraceRequest], *, bucket_s: float, seed: int) -> Iterator[TraceRequest]:
    """Moves every arrival to a uniform place in the `bucket_s` after its stamp and keeps the order within a stamp.

    Rounded stamps (Mooncake's: about 3 s) make bursts that the traffic did not have. `requests` must be in order of arrival."""
    source = random.Random(seed)
    for stamp_s, group in groupby(requests, key=lambda request: request.arrival_s):
        bucket = list(group)
        offsets_s = sorted(source.uniform(0, bucket_s) for _ in bucket)
        for request, offset_s in zip(bucket, offsets_s, strict=True):
            yield request._replace(arrival_s=stamp_s + offset_s)
