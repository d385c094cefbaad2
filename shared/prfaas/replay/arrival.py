"""One request as a load generator sends it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from prfaas.traces import TraceRequest

MIN_PROMPT_TOKENS = 2
"""Shortest prompt that is sent: one token to prefill and one to decode from."""


class Arrival(NamedTuple):
    arrival_s: float
    """Moment at which the request is due, seconds after the run's start. A later turn of a session may be due later."""
    prompt_tokens: int
    output_tokens: int
    block_ids: Sequence[int] = ()
    """Names of the prompt's blocks: equal ids have equal content, up to the block's end. The last one may reach beyond it."""
    block_tokens: int = 0
    """Tokens in a block; 0 without block_ids."""
    session: str = ""
    """Name of a conversation: each of its requests follows the answer to the one before."""
    think_s: float = 0.0
    """Pause after that answer."""
    text: str = ""
    """Prompt itself; empty where it has to be made from the lengths and blocks."""


def arrivals_of(requests: Iterable[TraceRequest]) -> Iterator[Arrival]:
    """Yields what a trace asks for; prompts and answers have at least what a server takes."""
    for request in requests:
        yield Arrival(
            arrival_s=request.arrival_s,
            prompt_tokens=max(MIN_PROMPT_TOKENS, request.input_tokens),
            output_tokens=max(1, request.output_tokens),
            block_ids=request.block_ids,
            block_tokens=request.block_tokens,
            session=request.session,
            think_s=request.think_s,
            text=request.text,
        )
