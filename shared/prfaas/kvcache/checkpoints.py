"""Places of checkpoints: ends of blocks at which a prefill can go on, in models that need more for that than full layers' KV.

A full layer's KV is of use at the end of every block. A window and a recurrent state belong to one length, and in a hybrid model
one state is larger than the KV of many blocks; so these are kept at chosen ends only. A prompt is resumed at the last of them
within what it shares. They are placed

- at the prompt's last whole block, where the conversation's next prompt goes on;
- where an earlier prompt's blocks end to match and nothing could be resumed: two prompts parted there, and more may;
- at regular distances, so far apart that they take an eighth of what the blocks between them take: they bound what the first
  prompt of a branch computes again. Closer ones cost more hits, by the room that they take, than they bring
  (docs/cache-pool.md);
- as spares at closer ones, while there is room that nothing else wants: so close that they take eight times what the blocks
  between them take. They are the first to go, and one that is used is kept like the others.
"""

from prfaas.kvcache.layout import KVLayout, LayerKind

_BLOCKS_TO_REGULAR = 8
"""Bytes of the blocks between two regular checkpoints, to those of one."""


def checkpoint_spacing(layout: KVLayout, block_tokens: int) -> int:
    """Returns the number of blocks from one regular checkpoint to the next; 0 for a model that needs none."""
    if all(spec.kind is LayerKind.FULL for spec in layout.layers):
        return 0
    window_tokens = max(spec.window_tokens for spec in layout.layers)
    block_bytes = sum(layout.range_bytes(part) for part in layout.block_ranges(0, block_tokens))
    if not block_bytes:  # only windows or only states
        return _BLOCKS_TO_REGULAR * max(1, -(-window_tokens // block_tokens))
    checkpoint_bytes = sum(layout.range_bytes(part) for part in layout.checkpoint_ranges(max(block_tokens, window_tokens)))
    return max(1, -(-_BLOCKS_TO_REGULAR * checkpoint_bytes // block_bytes))


def is_spare_place(spacing: int, place: int) -> bool:
    """Tells whether a prefill leaves a spare checkpoint after a number of blocks of a prompt."""
    return not place % -(-spacing // _BLOCKS_TO_REGULAR**2)


def checkpoint_places(spacing: int, *, resumed: int, matched: int, whole: int) -> frozenset[int]:
    """Returns the numbers of blocks after which a prefill leaves a checkpoint, when it goes on after `resumed` blocks of a prompt
    of `whole` ones, of which the first `matched` were found."""
    regular = range(resumed // spacing * spacing + spacing, whole + 1, spacing)
    return frozenset(place for place in (*regular, matched, whole) if place > resumed)
