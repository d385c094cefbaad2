"""Answers of a model that says anything at all, as far as a grammar lets it."""

import random
from pathlib import Path

from prfaas.engine.emulated_model import EOS_TOKEN_ID, byte_tokenizer
from prfaas.engine.grammar.matcher import GrammarTokenizer
from prfaas.engine.row_masks import allowed_ids

MAX_TOKENS = 4000
ENDS = frozenset([*b'"]},:', EOS_TOKEN_ID])


def bytes_at(directory: Path) -> GrammarTokenizer:
    """A tokenizer of one token per byte, and one that ends the answer."""
    path = directory / "tokenizer.json"
    path.write_text(byte_tokenizer().to_str())
    return GrammarTokenizer(path, EOS_TOKEN_ID + 1, [EOS_TOKEN_ID])


def answer(tokenizer: GrammarTokenizer, grammar: str, seed: int) -> str:
    """The text until the end token. It ends sooner or later: what ends a part comes more often than by chance."""
    dice = random.Random(seed)
    matcher = tokenizer.matcher(grammar)
    said = bytearray()
    for _ in range(MAX_TOKENS):
        ids = allowed_ids(matcher.mask(), EOS_TOKEN_ID + 1)
        ends = [token_id for token_id in ids if token_id in ENDS]
        token_id = dice.choice(ends if ends and dice.random() < 0.3 else ids)
        if token_id == EOS_TOKEN_ID:
            return said.decode()
        matcher.take(token_id)
        said.append(token_id)
    raise AssertionError(f"no end after {MAX_TOKENS} tokens: {bytes(said[:200])!r}")
