"""What prefill really has to compute: prompt lengths less the prefix that a cache of a given size still holds."""

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Protocol


class Prompt(Protocol):
    @property
    def input_tokens(self) -> int: ...

    @property
    def block_ids(self) -> Sequence[int]: ...

    @property
    def block_tokens(self) -> int: ...


def uncached_tokens(prompts: Iterable[Prompt], cache_tokens: float = math.inf) -> Iterator[int]:
    """Per prompt, in order: its tokens after the longest cached prefix of whole blocks, 0 at least.

    One cache of `cache_tokens`, least recently used blocks leave first. A prompt without block ids is uncached."""
    cache: OrderedDict[int, None] = OrderedDict()
    for prompt in prompts:
        hits = len(list(takewhile(cache.__contains__, prompt.block_ids)))
        yield max(prompt.input_tokens - hits * prompt.block_tokens, 0)
        for block in prompt.block_ids[:hits] if math.isfinite(cache_tokens) else ():
            cache.move_to_end(block)
        cache.update(dict.fromkeys(prompt.block_ids[hits:]))
        while cache and len(cache) * prompt.block_tokens > cache_tokens:
            cache.popitem(last=False)
