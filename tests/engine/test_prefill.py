"""Prefill: which KV is handed out, and that it is exactly the KV that transformers computes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers

from prfaas.engine.protocol import EngineError, PrefillCancelled
from prfaas.engine.torch_engine import TorchEngine
from prfaas.engine.weights import ModelFiles
from prfaas.kvcache.layout import KVPiece, LayerKind, LayerRange

CHUNK_TOKENS = 512


def prefill(engine: TorchEngine, token_ids: Sequence[int]) -> list[KVPiece]:
    pieces: list[KVPiece] = []
    engine.prefill(token_ids, pieces.append, lambda: False)
    return pieces


@torch.inference_mode()
def plain_cache(model: Any, token_ids: Sequence[int]) -> transformers.DynamicCache:
    cache = transformers.DynamicCache(config=model.config)
    for start in range(0, len(token_ids), CHUNK_TOKENS):
        chunk = torch.tensor([token_ids[start : start + CHUNK_TOKENS]])
        model.model(input_ids=chunk, past_key_values=cache, use_cache=True)
    return cache


def canonical(states: torch.Tensor, first: int, piece: LayerRange) -> bytes:
    """Tokens of `piece` out of transformers' [1, kv_heads, tokens, head_dim], whose first token is at position `first`."""
    part = states[0, :, piece.start - first : piece.end - first].transpose(0, 1).contiguous()
    return part.view(torch.uint8).numpy().tobytes()


def assert_same_kv(pieces: Sequence[KVPiece], cache: transformers.DynamicCache, prefill_tokens: int) -> None:
    for piece in pieces:
        states: Any = cache.layers[piece.range.layer]
        first = prefill_tokens - states.keys.shape[2]
        assert bytes(piece.keys) == canonical(states.keys, first, piece.range), f"keys of {piece.range}"
        assert bytes(piece.values) == canonical(states.values, first, piece.range), f"values of {piece.range}"


def assert_covers_once(engine: TorchEngine, pieces: Sequence[KVPiece], prefill_tokens: int) -> None:
    layout = engine.describe().layout
    expected = [
        piece
        for start in range(0, prefill_tokens, CHUNK_TOKENS)
        for piece in layout.chunk_ranges(start, min(start + CHUNK_TOKENS, prefill_tokens), prefill_tokens)
    ]
    assert [piece.range for piece in pieces] == expected
    for layer in range(len(layout.layers)):
        tokens = [token for piece in pieces if piece.range.layer == layer for token in range(piece.range.start, piece.range.end)]
        needed = layout.needed(layer, prefill_tokens)
        assert tokens == list(range(needed.start, needed.end))
    assert sum(len(piece.keys) + len(piece.values) for piece in pieces) == layout.total_bytes(prefill_tokens)


@pytest.mark.parametrize("prefill_tokens", [1, 511, 512, 513])
def test_kv_equals_that_of_transformers_bit_for_bit(
    bf16_engine: TorchEngine, plain_bf16: Any, text_ids: list[int], prefill_tokens: int
) -> None:
    prompt = text_ids[:prefill_tokens]
    pieces = prefill(bf16_engine, prompt)
    assert_covers_once(bf16_engine, pieces, prefill_tokens)
    # Compared after the whole prefill: what was handed out has not changed since.
    assert_same_kv(pieces, plain_cache(plain_bf16, prompt), prefill_tokens)


def lowest_layers(files: ModelFiles, count: int, directory: Path) -> ModelFiles:
    """The same weights with a configuration that stops after `count` layers: their KV does not depend on those above."""
    config = msgspec.json.decode((files.directory / "config.json").read_bytes())
    config["num_hidden_layers"] = count
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][:count]
    (directory / "config.json").write_bytes(msgspec.json.encode(config))
    (directory / files.weights.name).symlink_to(files.weights)
    return msgspec.structs.replace(files, directory=directory)


@pytest.mark.timeout(300)  # half of it is transformers' work
@pytest.mark.parametrize("prefill_tokens", [3000, 8000])
def test_kv_of_long_prompts_equals_that_of_transformers_bit_for_bit(
    files: ModelFiles, text_ids: list[int], tmp_path: Path, prefill_tokens: int
) -> None:
    # All layers would take minutes; 6 of Gemma are 5 sliding and 1 full.
    short = lowest_layers(files, {"gemma-3-270m": 6, "smollm2-135m": 3}[files.model], tmp_path)
    engine = TorchEngine(short, dtype="bfloat16", chunk_tokens=CHUNK_TOKENS, device=torch.device("cpu"))
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        short.directory, dtype=torch.bfloat16, attn_implementation="sdpa", local_files_only=True
    )
    prompt = text_ids[:prefill_tokens]
    assert len(prompt) == prefill_tokens
    pieces = prefill(engine, prompt)
    assert_covers_once(engine, pieces, prefill_tokens)
    assert_same_kv(pieces, plain_cache(plain, prompt), prefill_tokens)


def test_pieces_leave_while_the_chunk_is_still_computed(bf16_engine: TorchEngine, text_ids: list[int]) -> None:
    """A layer's piece is handed out before the next layer runs."""
    order: list[str] = []
    handles = [
        layer.register_forward_hook(lambda *_, index=index: order.append(f"computed {index}"))
        for index, layer in enumerate(bf16_engine.model.model.layers)
    ]
    try:
        bf16_engine.prefill(text_ids[:20], lambda piece: order.append(f"out {piece.range.layer}"), lambda: False)
    finally:
        for handle in handles:
            handle.remove()
    layers = range(len(bf16_engine.describe().layout.layers))
    assert order == [event for index in layers for event in (f"out {index}", f"computed {index}")]


def test_pieces_of_a_single_kv_head_are_views_not_copies(bf16_engine: TorchEngine, text_ids: list[int]) -> None:
    """Pieces of a full layer of one prefill lie in one buffer, one behind the other."""
    layout = bf16_engine.describe().layout
    full = next(index for index, spec in enumerate(layout.layers) if spec.kind is LayerKind.FULL)
    if layout.layers[full].kv_heads > 1:
        pytest.skip("heads lie one behind the other, tokens do not")
    pieces = [piece for piece in prefill(bf16_engine, text_ids[:600]) if piece.range.layer == full]
    addresses = [torch.frombuffer(piece.keys, dtype=torch.uint8).data_ptr() for piece in pieces]
    assert addresses[1] - addresses[0] == len(pieces[0].keys)


def test_prefill_stops_between_chunks_when_cancelled(bf16_engine: TorchEngine, text_ids: list[int]) -> None:
    pieces: list[KVPiece] = []
    with pytest.raises(PrefillCancelled):
        bf16_engine.prefill(text_ids[:1200], pieces.append, lambda: bool(pieces))
    assert {piece.range.end for piece in pieces} <= {512}


def test_prefill_passes_on_what_on_piece_raises(bf16_engine: TorchEngine, text_ids: list[int]) -> None:
    def broken_link(_: KVPiece) -> None:
        raise ConnectionError("the link is gone")

    with pytest.raises(ConnectionError, match="the link is gone"):
        bf16_engine.prefill(text_ids[:5], broken_link, lambda: False)


def test_prefill_of_nothing_hands_out_nothing(bf16_engine: TorchEngine) -> None:
    assert prefill(bf16_engine, []) == []


def test_prefill_refuses_what_it_cannot_compute(bf16_engine: TorchEngine) -> None:
    limit_tokens = bf16_engine.describe().max_context_tokens
    with pytest.raises(EngineError, match=f"context of {limit_tokens}"):
        prefill(bf16_engine, [5] * (limit_tokens + 1))
    with pytest.raises(EngineError, match="token ids are 0 to"):
        prefill(bf16_engine, [5, bf16_engine.vocabulary_size])
    with pytest.raises(EngineError, match="token ids are 0 to"):
        prefill(bf16_engine, [-1])
