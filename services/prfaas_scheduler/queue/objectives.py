"""Objectives of time to first token by length: a prompt of 100,000 tokens cannot have the one of a prompt of 1,000.

The rule: one objective up to a length, beyond it in proportion to the length, as prefill time grows. The defaults are 10 s up to
32,768 tokens, so 20 s at 65,536 and 40 s at 131,072. An infinite length gives all prompts the same objective.
"""

from bisect import bisect_left
from math import inf
from typing import Final, NamedTuple

TTFT_OBJECTIVE_S = 10.0
PROPORTIONAL_FROM_TOKENS = 32_768.0
LENGTH_CLASSES: Final = (8_192, 32_768, 65_536)
"""Longest prefill, in tokens, of each length class but the last, which has no end."""
CLASS_NAMES: Final = ("up to 8K", "8K to 32K", "32K to 64K", "above 64K")


class Objectives(NamedTuple):
    """Rule by which a prompt's length gives its objective."""

    ttft_s: float = TTFT_OBJECTIVE_S
    """Objective of prompts up to `proportional_from_tokens`."""
    proportional_from_tokens: float = PROPORTIONAL_FROM_TOKENS

    def ttft_objective_s(self, prompt_tokens: float) -> float:
        if self.proportional_from_tokens == inf:
            return self.ttft_s
        return self.ttft_s * max(1.0, prompt_tokens / self.proportional_from_tokens)


def length_class(tokens: float) -> int:
    """Index of the length's class in CLASS_NAMES."""
    return bisect_left(LENGTH_CLASSES, tokens)
