"""Prefill: which KV is handed out, that it is the KV that transformers computes, and that it is the same bits every time."""

import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import torch
import transformers
import xxhash
from safetensors.torch import load_file, save_file

from prfaas.engine.model_directory import ModelFiles
from prfaas.engine.packed_linear import replace_linears
from prfaas.engine.protocol import EngineError, PrefillCancelled
from prfaas.engine.shards import WEIGHTS
from prfaas.engine.torch_engine import TorchEngine
from prfaas.engine.wide_linear import WideLinear, should_widen
from prfaas.kvcache.layout import KVPiece, LayerKind
from tests.engine.conftest import CHUNK_TOKENS, plain_model


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


def assert_same_kv(engine: TorchEngine, pieces: Sequence[KVPiece], cache: transformers.DynamicCache, tolerance: float) -> None:
    """Compared after the whole prefill, so that what was handed out must not have changed since.

    tolerance: relative to the layer's largest element."""
    for layer, spec in enumerate(engine.describe().layout.layers):
        states: Any = cache.layers[layer]
        for name in ("keys", "values"):
            data = bytearray(b"".join(getattr(piece, name) for piece in pieces if piece.range.layer == layer))
            computed = torch.frombuffer(data, dtype=engine.dtype).view(-1, spec.kv_heads, spec.head_dim)
            expected = getattr(states, name)[0].transpose(0, 1)[-len(computed) :]
            largest_error = float((computed - expected).abs().max())
            assert largest_error <= tolerance * float(expected.abs().max()), f"{name} of layer {layer}"


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


@pytest.fixture(scope="session")
def short_files(files: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """The same weights with a configuration that stops early: the KV of a layer does not depend on those above it.

    In Gemma layer 5 is the first full one, and layer 6 the first whose KV depends on full attention."""
    count = {"gemma-3-270m": 7, "smollm2-135m": 3}[files.model]
    directory = tmp_path_factory.mktemp("short")
    config = msgspec.json.decode((files.directory / "config.json").read_bytes())
    config["num_hidden_layers"] = count
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][:count]
    (directory / "config.json").write_bytes(msgspec.json.encode(config))
    tensors = {
        name: tensor
        for name, tensor in load_file(files.directory / WEIGHTS).items()
        if not (found := re.search(r"layers\.(\d+)\.", name)) or int(found[1]) < count
    }
    save_file(tensors, directory / WEIGHTS, {"format": "pt"})
    return msgspec.structs.replace(files, directory=directory, converted_xxh3_128="")


def engine_and_plain(files: ModelFiles, dtype: str) -> tuple[TorchEngine, Any]:
    engine = TorchEngine(files, dtype=dtype, chunk_tokens=CHUNK_TOKENS, device=torch.device("cpu"))
    return engine, plain_model(files, engine.dtype)


@pytest.fixture(scope="session")
def short_fp32(short_files: ModelFiles) -> tuple[TorchEngine, Any]:
    return engine_and_plain(short_files, "float32")


# 513: the last chunk is one token. 1300: the window has left the first chunk behind.
@pytest.mark.parametrize("prefill_tokens", [1, 512, 513, 1300])
def test_kv_equals_that_of_transformers(short_fp32: tuple[TorchEngine, Any], text_ids: list[int], prefill_tokens: int) -> None:
    engine, plain = short_fp32
    prompt = text_ids[:prefill_tokens]
    pieces = prefill(engine, prompt)
    assert_covers_once(engine, pieces, prefill_tokens)
    assert_same_kv(engine, pieces, plain_cache(plain, prompt), 1e-4)


def test_kv_of_one_chunk_equals_that_of_transformers_bit_for_bit_in_bf16(short_files: ModelFiles, text_ids: list[int]) -> None:
    """One chunk runs through the same kernels; of several, the sums are split in another way."""
    engine, plain = engine_and_plain(short_files, "bfloat16")
    if should_widen(torch.bfloat16, engine.device):
        # On such a CPU the products' sums have another order than torch's own. All else must be the same.
        replace_linears(plain, WideLinear)
    for prefill_tokens in (1, 300, 512):
        prompt = text_ids[:prefill_tokens]
        assert_same_kv(engine, prefill(engine, prompt), plain_cache(plain, prompt), 0)


DIGESTS = """
import sys, torch, xxhash
from prfaas.engine.torch_engine import TorchEngine
from prfaas.engine.weights import prepare
model, chunk_tokens, *token_ids = sys.argv[1:]
torch.set_num_threads(1)
engine = TorchEngine(prepare(model), dtype="bfloat16", chunk_tokens=int(chunk_tokens), device=torch.device("cpu"))
print(engine.describe().fingerprint)
def show(piece):
    print(*piece.range, xxhash.xxh3_128_hexdigest(piece.keys), xxhash.xxh3_128_hexdigest(piece.values))
engine.prefill([int(token_id) for token_id in token_ids], show, lambda: False)
"""


@pytest.mark.timeout(300)
def test_every_process_computes_the_same_bits(files: ModelFiles, text_ids: list[int]) -> None:
    """The promise of equal fingerprints."""
    chunk_tokens = 128
    engine = TorchEngine(files, dtype="bfloat16", chunk_tokens=chunk_tokens, device=torch.device("cpu"))
    description = engine.describe()
    prompt = text_ids[: 2 * chunk_tokens + 1]  # two whole chunks and one of a single token

    def digests() -> list[str]:
        return [
            " ".join(map(str, [*piece.range, xxhash.xxh3_128_hexdigest(piece.keys), xxhash.xxh3_128_hexdigest(piece.values)]))
            for piece in prefill(engine, prompt)
        ]

    here = digests()
    assert digests() == here
    command = [sys.executable, "-c", DIGESTS, description.model, str(chunk_tokens), *map(str, prompt)]
    there = subprocess.run(command, check=True, timeout=240, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    assert there == [description.fingerprint, *here]


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
