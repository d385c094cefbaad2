"""Uncached lengths: prompt lengths less the prefix that a cache of a given size still holds.

As L in Equations 3 to 7 they stand for prompts of that length. This leaves out the time that attention spends on the cached
prefix. Only the uncached part of the KV crosses the link, so the decode site must hold the prefix too.
"""

import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Protocol


class Prompt(Protocol):
    @property
    def input_tokens(self) -> int: ...

    @property
    def block_ids(self) -> Sequence[int]:
        """Names of blocks: equal ids stand for equal content up to the block's end."""
        ...

    @property
    def block_tokens(self) -> int: ...


def uncached_tokens(prompts: Iterable[Prompt], cache_tokens: float = math.inf) -> Iterator[int]:
    """Yields for each prompt its tokens after the longest cached prefix of whole blocks, 0 at least.

    One cache holds `cache_tokens`; the least recently used blocks leave first. A prompt without block ids is uncached."""
    if math.isinf(cache_tokens):
        yield from _never_evicted(prompts)
        return
    cache: OrderedDict[int, None] = OrderedDict()
    for prompt in prompts:
        hits = len(list(takewhile(cache.__contains__, prompt.block_ids)))
        yield max(prompt.input_tokens - hits * prompt.block_tokens, 0)
        for block in prompt.block_ids[:hits]:
            cache.move_to_end(block)
        cache.update(dict.fromkeys(prompt.block_ids[hits:]))
        while cache and len(cache) * prompt.block_tokens > cache_tokens:
            cache.popitem(last=False)


def _never_evicted(prompts: Iterable[Prompt]) -> Iterator[int]:
    """Searches the end of the hits by halves: a block that was seen was seen with all before it."""
    seen: set[int] = set()
    for prompt in prompts:
        ids = prompt.block_ids
        hits = bisect_left(ids, True, key=lambda block: block not in seen)
        yield max(prompt.input_tokens - hits * prompt.block_tokens, 0)
        seen.update(ids[hits:])
