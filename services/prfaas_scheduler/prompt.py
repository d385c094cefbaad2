"""One prompt to place: its length, and who has cached how much of it."""

from collections.abc import Sequence
from typing import NamedTuple

from prfaas_scheduler.block_directory import Level


class Prompt(NamedTuple):
    tokens: int
    """The whole prompt, its last token included, which the decode worker computes."""
    block_tokens: int = 0
    """Tokens of a block; 0 when nothing is known of the prompt's blocks."""
    levels: Sequence[Level] = ()
    """Workers that cache a prefix of it, the longest prefix first."""
    decode_tokens: int = 0
    """Prefix tokens cached at the decode worker that is to serve it."""

    @property
    def prefill_tokens(self) -> int:
        """Tokens to prefill: all but the last."""
        return self.tokens - 1

    def cached_tokens(self, level: Level) -> int:
        return level.blocks * self.block_tokens
