"""Arrivals of requests, their moments and lengths: Poisson arrivals with lengths from a distribution, or a trace."""

import random
from collections.abc import Iterable, Iterator

from prfaas.capacity.lengths import Lengths
from prfaas.replay.arrival import Arrival
from prfaas.traces import TraceRequest


def poisson(lengths: Lengths, *, rate_req_s: float, duration_s: float, output_tokens: int, seed: int) -> list[Arrival]:
    """Another rate with the same seed gives the same kind of run in another time: gaps shrink, lengths come in the same order.

    Lengths are stratified, one from each of as many equally likely slices as there are requests, so that a short run brings the
    work that the distribution promises. Their order, and so their bunching, is random."""
    source = random.Random(seed)
    order = random.Random(seed + 1)
    count = max(1, round(rate_req_s * duration_s))
    slices = list(range(count))
    order.shuffle(slices)
    arrivals = []
    # Of a Poisson process it is known that, given their number, arrivals are uniform.
    for at, position in zip(sorted(source.random() for _ in range(count)), slices, strict=True):
        tokens = lengths.quantile((position + order.random()) / count)
        arrivals.append(Arrival(at * duration_s, max(2, round(tokens)), output_tokens))
    return arrivals


def of_trace(requests: Iterable[TraceRequest], *, max_prompt_tokens: int, block_tokens: int = 512) -> Iterator[Arrival]:
    """Longer prompts than `max_prompt_tokens` are left out: the model would refuse them. `block_tokens`: of the arrivals' blocks,
    a multiple of the trace's, whose last block in each names it."""
    for request in requests:
        if request.input_tokens <= max_prompt_tokens:
            each = block_tokens // request.block_tokens if request.block_ids else 1
            blocks = request.block_ids[each - 1 :: each]
            yield Arrival(request.arrival_s, max(2, request.input_tokens), max(1, request.output_tokens), blocks)


def scaled_tokens(arrivals: Iterable[Arrival], token_scale: float, time_scale: float) -> list[Arrival]:
    """The same load for an emulated engine with these scales. At least two tokens of prompt stay, and one of answer."""
    return [
        Arrival(
            arrival.arrival_s / time_scale,
            max(2, round(arrival.prompt_tokens / token_scale)),
            max(1, round(arrival.output_tokens / token_scale)),
            arrival.block_ids,
        )
        for arrival in arrivals
    ]
