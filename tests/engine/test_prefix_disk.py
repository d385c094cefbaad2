"""KV that an earlier process left on disk gives the log-probabilities of KV computed afresh, bit for bit, on real models."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.model_directory import ModelFiles
from prfaas.engine.protocol import DecodeRow, SampledToken
from prfaas.engine.torch_engine import TorchEngine
from prfaas.kvcache.layout import KVPiece
from prfaas.kvcache.prefix_cache import PrefixCache
from prfaas.worker.disk_tier.tier import DiskTier

BLOCK_TOKENS = 128
CAPACITY_BYTES = 256 << 20
CLOSE_S = 60.0
HASH_KEY = b"k" * 32
# The second one ends behind Gemma's window of 512.
LENGTHS = [blocks * BLOCK_TOKENS + around for blocks in (1, 5) for around in (-1, 0, 1)]


def engine(files: ModelFiles) -> TorchEngine:
    return TorchEngine(files, dtype="bfloat16", chunk_tokens=BLOCK_TOKENS, device=torch.device("cpu"))


@contextmanager
def opened(engine: TorchEngine, directory: Path) -> Iterator[PrefixCache]:
    """A process's pool, empty in memory, above what lies on disk; reading always pays."""
    layout = engine.describe().layout
    cache = PrefixCache.for_model(layout, BLOCK_TOKENS, CAPACITY_BYTES, HASH_KEY)
    cache.lower = tier = DiskTier(
        directory,
        CAPACITY_BYTES,
        engine.describe().fingerprint,
        block_tokens=BLOCK_TOKENS,
        checkpoint_spacing=cache.checkpoint_spacing,
        compute_s=lambda start, end: float(end - start),
    )
    try:
        yield cache
    finally:
        tier.close(CLOSE_S)
    assert (tier.damaged, tier.dropped, tier.failed) == (0, 0, 0)


def answer(engine: TorchEngine, prompt: list[int], cache: PrefixCache | None = None) -> tuple[list[SampledToken], int]:
    """Returns tokens with their log-probabilities and those of the runners-up, and the prompt's tokens that were read from
    disk."""
    pieces: list[KVPiece] = []
    read_tokens = 0
    if cache is None:
        engine.prefill(prompt[:-1], pieces.append, lambda: False)
    else:
        with cache.pin(prompt[:-1]) as prefix:
            read_tokens = prefix.read_back.tokens
            engine.prefill(prompt[:-1], pieces.append, lambda: False, prefix=prefix)
    sequence = engine.reserve(len(prompt) - 1, len(prompt) + 4)
    for piece in pieces:
        engine.install(sequence, piece)
    sampler = engine.sampler(Sampling(max_tokens=4, temperature=0.0, top_logprobs=5))
    row = DecodeRow(sequence=sequence, token_id=prompt[-1], sampler=sampler)
    tokens = []
    for _ in range(4):
        (token,) = engine.decode([row])
        row.token_id = token.token_id
        tokens.append(token)
    return tokens, read_tokens


@pytest.fixture(scope="module")
def left_on_disk(files: ModelFiles, text_ids: list[int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a process that has served prompts of these lengths and ended."""
    directory, first = tmp_path_factory.mktemp("kv"), engine(files)
    with opened(first, directory) as cache:
        for tokens in LENGTHS:
            answer(first, text_ids[: tokens + 1], cache)
    return directory


@pytest.fixture(scope="module")
def restarted(files: ModelFiles) -> TorchEngine:
    return engine(files)


@pytest.mark.parametrize("more_tokens", [1, 50])
@pytest.mark.parametrize("shared_tokens", LENGTHS)
def test_log_probabilities_after_a_restart_are_those_computed_afresh(
    restarted: TorchEngine, left_on_disk: Path, text_ids: list[int], shared_tokens: int, more_tokens: int
) -> None:
    prompt = text_ids[:shared_tokens] + text_ids[2000 : 2000 + more_tokens]
    expected, _ = answer(restarted, prompt)
    assert all(token.logprob is not None for token in expected)
    with opened(restarted, left_on_disk) as cache:
        found, read_tokens = answer(restarted, prompt, cache)
    assert read_tokens == shared_tokens // BLOCK_TOKENS * BLOCK_TOKENS
    assert found == expected
