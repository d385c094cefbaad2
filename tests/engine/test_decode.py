"""Install and decode: a ragged batch answers what each request would be answered alone, and KV that is lost shows."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.protocol import BadLogitsError, DecodeRow, EngineError
from prfaas.engine.sequence_cache import SequenceCache
from prfaas.engine.torch_engine import TorchEngine
from prfaas.kvcache.layout import KVPiece, LayerKind, LayerRange

GREEDY = Sampling(max_tokens=16, temperature=0)


def shipped_kv(engine: TorchEngine, token_ids: Sequence[int]) -> list[KVPiece]:
    """Copies a piece as the network would: bytes that share no memory with the prefill."""
    pieces: list[KVPiece] = []
    engine.prefill(
        token_ids,
        lambda piece: pieces.append(KVPiece(piece.range, memoryview(bytes(piece.keys)), memoryview(bytes(piece.values)))),
        lambda: False,
    )
    return pieces


def sequence_of(engine: TorchEngine, pieces: Sequence[KVPiece], prefill_tokens: int, total_tokens: int) -> SequenceCache:
    sequence = engine.reserve(prefill_tokens, total_tokens)
    for piece in pieces:
        engine.install(sequence, piece)
    return sequence


def row_of(engine: TorchEngine, prompt: Sequence[int], max_tokens: int, sampling: Sampling = GREEDY) -> DecodeRow:
    """All but the last token are prefilled and installed; the first step computes the last."""
    sequence = sequence_of(engine, shipped_kv(engine, prompt[:-1]), len(prompt) - 1, len(prompt) + max_tokens)
    return DecodeRow(sequence=sequence, token_id=prompt[-1], sampler=engine.sampler(sampling))


def decode(engine: TorchEngine, rows: Sequence[DecodeRow], steps: int) -> list[list[int]]:
    generated: list[list[int]] = [[] for _ in rows]
    for _ in range(steps):
        for row, tokens, sampled in zip(rows, generated, engine.decode(rows), strict=True):
            row.token_id = sampled.token_id
            tokens.append(sampled.token_id)
    return generated


@torch.inference_mode()
def plain_tokens(model: Any, prompt: Sequence[int], generated: Sequence[int]) -> list[int]:
    """Tokens that plain transformers finds most likely after the prompt and after each generated token but the last.

    One forward for all of them: if these are the generated tokens, then step by step it would have generated the same."""
    logits = model(torch.tensor([[*prompt, *generated[:-1]]]), logits_to_keep=len(generated)).logits
    return list(logits[0].argmax(-1).tolist())


# 1: nothing is prefilled. 508: a sliding window of 512 fills up while decoding. 540: two chunks.
PROMPT_TOKENS = (1, 2, 17, 508, 540)


@pytest.mark.timeout(300)  # half of it is transformers' work
def test_a_mixed_batch_gives_the_tokens_of_plain_transformers(
    fp32_engine: TorchEngine, plain_fp32: Any, text_ids: list[int]
) -> None:
    prompts = [text_ids[100 * index : 100 * index + count] for index, count in enumerate(PROMPT_TOKENS)]
    generated = decode(fp32_engine, [row_of(fp32_engine, prompt, 8) for prompt in prompts], 8)
    assert generated == [plain_tokens(plain_fp32, *pair) for pair in zip(prompts, generated, strict=True)]


def test_requests_join_and_leave_between_steps(fp32_engine: TorchEngine, text_ids: list[int]) -> None:
    prompts = [text_ids[:40], text_ids[200:260], text_ids[400:415]]
    first, second, third = (row_of(fp32_engine, prompt, 8) for prompt in prompts)
    together: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for batch in ([0], [0, 1], [1, 2, 0], [2, 1], [2, 1], [1]):
        rows = [(first, second, third)[index] for index in batch]
        for index, generated in zip(batch, decode(fp32_engine, rows, 1), strict=True):
            together[index] += generated
    for prompt, tokens in zip(prompts, together.values(), strict=True):
        assert tokens == decode(fp32_engine, [row_of(fp32_engine, prompt, 8)], len(tokens))[0]


@pytest.mark.parametrize("kind", [LayerKind.FULL, LayerKind.SLIDING])
def test_lost_kv_changes_the_tokens(bf16_engine: TorchEngine, text_ids: list[int], kind: LayerKind) -> None:
    layout = bf16_engine.describe().layout
    if all(spec.kind is not kind for spec in layout.layers):
        pytest.skip(f"the model has no {kind} layers")
    prompt = text_ids[:600]
    pieces = shipped_kv(bf16_engine, prompt[:-1])

    def zeroed(piece: KVPiece) -> KVPiece:
        if layout.layers[piece.range.layer].kind is not kind:
            return piece
        return KVPiece(piece.range, memoryview(bytes(len(piece.keys))), memoryview(bytes(len(piece.values))))

    def tokens(change: Callable[[KVPiece], KVPiece]) -> list[int]:
        sequence = sequence_of(bf16_engine, [change(piece) for piece in pieces], len(prompt) - 1, len(prompt) + 8)
        row = DecodeRow(sequence=sequence, token_id=prompt[-1], sampler=bf16_engine.sampler(GREEDY))
        return decode(bf16_engine, [row], 5)[0]

    intact = tokens(lambda piece: piece)
    assert tokens(lambda piece: piece) == intact
    assert tokens(zeroed) != intact


def test_a_bad_row_is_named_and_the_step_can_be_done_without_it(bf16_engine: TorchEngine, text_ids: list[int]) -> None:
    sampling = Sampling(max_tokens=16, temperature=1, seed=3)
    expected = decode(bf16_engine, [row_of(bf16_engine, text_ids[:30], 8, sampling)], 6)[0]
    good, bad = row_of(bf16_engine, text_ids[:30], 8, sampling), row_of(bf16_engine, text_ids[50:80], 8, sampling)
    bad.sequence.values[-1].fill_(torch.nan)
    with pytest.raises(BadLogitsError, match=r"rows \[1\]") as failed:
        bf16_engine.decode([good, bad])
    assert failed.value.rows == (1,)
    assert decode(bf16_engine, [good], 6)[0] == expected


def test_decode_refuses_a_sequence_without_its_kv(bf16_engine: TorchEngine, text_ids: list[int]) -> None:
    pieces = shipped_kv(bf16_engine, text_ids[:20])
    sequence = sequence_of(bf16_engine, pieces[:-1], 20, 40)
    row = DecodeRow(sequence=sequence, token_id=5, sampler=bf16_engine.sampler(GREEDY))
    with pytest.raises(EngineError, match="is not installed"):
        bf16_engine.decode([row])
    bf16_engine.install(sequence, pieces[-1])
    assert len(bf16_engine.decode([row])) == 1


def test_decode_refuses_to_go_beyond_the_reserved_room(bf16_engine: TorchEngine, text_ids: list[int]) -> None:
    row = row_of(bf16_engine, text_ids[:10], 2)
    decode(bf16_engine, [row], 3)
    with pytest.raises(EngineError, match="is full"):
        bf16_engine.decode([row])


def test_decode_of_an_empty_batch_is_empty(bf16_engine: TorchEngine) -> None:
    assert bf16_engine.decode([]) == []


def test_reserve_refuses_what_can_never_fit(bf16_engine: TorchEngine) -> None:
    limit_tokens = bf16_engine.describe().max_context_tokens
    with pytest.raises(EngineError, match=f"context of {limit_tokens}"):
        bf16_engine.reserve(10, limit_tokens + 1)
    with pytest.raises(EngineError, match="no room"):
        bf16_engine.reserve(10, 10)


@pytest.mark.parametrize("total_tokens", [1, 511, 512, 513, 4000])
def test_a_sequence_takes_the_bytes_it_says(bf16_engine: TorchEngine, total_tokens: int) -> None:
    sequence = bf16_engine.reserve(0, total_tokens)
    tensors = [*sequence.keys, *sequence.values]
    assert bf16_engine.sequence_bytes(total_tokens) == sum(tensor.nbytes for tensor in tensors)


def test_install_refuses_what_does_not_fit(bf16_engine: TorchEngine, text_ids: list[int]) -> None:
    piece = shipped_kv(bf16_engine, text_ids[:20])[0]
    sequence = bf16_engine.reserve(20, 40)
    with pytest.raises(EngineError, match=r"keys have \d+ and values \d+"):
        bf16_engine.install(sequence, piece._replace(keys=piece.keys[:-1]))
    for wrong in (LayerRange(0, 1, 20), LayerRange(0, 0, 21), LayerRange(0, 5, 5)):
        with pytest.raises(EngineError, match="came for tokens"):
            bf16_engine.install(sequence, piece._replace(range=wrong))
    with pytest.raises(EngineError, match="layer 99 does not exist"):
        bf16_engine.install(sequence, piece._replace(range=LayerRange(99, 0, 20)))
