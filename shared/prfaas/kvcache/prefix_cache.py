"""KV of prompt prefixes: the pool of a worker, where prompts look up what is cached of them, and the tier beneath it, if any."""

from collections.abc import Container, Sequence

from prfaas.kvcache.block_pool import BlockPool, Changes, Tier
from prfaas.kvcache.lower_tier import LowerTier
from prfaas.kvcache.pinned_prefix import PinnedPrefix
from prfaas.kvcache.prompt_blocks import PromptBlocks, TokenBlocks


class PrefixCache(BlockPool):
    lower: LowerTier | None = None

    def pin(
        self,
        token_ids: Sequence[int],
        max_tokens: int | None = None,
        makers: Container[str] | None = None,
        scope: str = "",
    ) -> PinnedPrefix:
        """Longest cached prefix of `token_ids`, of at most `max_tokens` tokens, kept until it is released. `makers`: sites whose
        blocks may be used; None: those of any. `scope`: who shares prefixes; equal prompts of two never meet. What lies in the
        lower tier is read first, as far as that is sooner done than computing it."""
        prompt = TokenBlocks(token_ids, self.block_tokens, self.hash_key, scope)
        return PinnedPrefix(self, self.lower, prompt, None if max_tokens is None else max_tokens // self.block_tokens, makers)

    def pin_blocks(self, prompt: PromptBlocks, makers: Container[str] | None = None) -> PinnedPrefix:
        """Does the same for a prompt whose blocks have names already."""
        return PinnedPrefix(self, self.lower, prompt, None, makers)

    def tier(self, hash: int) -> Tier | None:
        in_memory = super().tier(hash)
        return Tier.DISK if in_memory is None and self.lower is not None and self.lower.holds(hash) else in_memory

    def take_changes(self) -> Changes:
        self._hear_of_lower()
        return super().take_changes()

    def validate(self) -> None:
        self._hear_of_lower()
        super().validate()
        if self.lower is not None:
            self.lower.validate()

    def _hear_of_lower(self) -> None:
        if self.lower is not None:
            self.touch(self.lower.take_touched())
