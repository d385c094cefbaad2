"""An emulated engine that waits for nothing, prompts for it and its answers, for tests."""

import random
from collections.abc import Sequence
from typing import Any

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.emulated import EmulatedConfig, EmulatedEngine
from prfaas.engine.protocol import DecodeRow, Engine
from prfaas.kvcache.layout import KVPiece

FAST = 1e6
"""A time scale at which nothing waits."""


def engine(model: str = "emulated-1t", *, chunk_tokens: int = 64, **changes: Any) -> EmulatedEngine:
    scales: dict[str, Any] = {"time_scale": FAST, "byte_scale": 6000.0, "token_scale": 32.0}
    return EmulatedEngine(model, EmulatedConfig(**(scales | changes)), chunk_tokens=chunk_tokens)


def prefilled(source: Engine, token_ids: Sequence[int]) -> list[KVPiece]:
    pieces: list[KVPiece] = []
    source.prefill(token_ids, pieces.append, lambda: False)
    return pieces


def answer(target: Engine, pieces: Sequence[KVPiece], prefill_tokens: int, *, last: int = 7, tokens: int = 12) -> list[int]:
    sequence = target.reserve(prefill_tokens, prefill_tokens + tokens + 1)
    for piece in pieces:
        target.install(sequence, piece)
    row = DecodeRow(sequence=sequence, token_id=last, sampler=target.sampler(Sampling(max_tokens=tokens)))
    out = []
    for _ in range(tokens):
        (sampled,) = target.decode([row])
        row.token_id = sampled.token_id
        out.append(sampled.token_id)
    return out


def prompt(tokens: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(256), k=tokens)
