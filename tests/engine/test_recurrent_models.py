"""States of recurrent layers: what is prefilled in one engine and continued in another has the bits of transformers' own cache.

Greedy tokens prove too little here: some models give the same ones with a state that was lost. So logits are compared.
"""

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AttentionInterface, DynamicCache

from prfaas.contracts.to_decode import Sampling
from prfaas.engine import torch_engine
from prfaas.engine.attention import ATTENTION, attention
from prfaas.engine.decode_cache import Ragged
from prfaas.engine.model_directory import read_directory
from prfaas.engine.model_layout import RECURRENT_KINDS
from prfaas.engine.protocol import BadLogitsError, DecodeRow
from prfaas.engine.self_test import BOUNDS, SelfTestError, self_test
from prfaas.engine.sequence_cache import SequenceCache
from prfaas.engine.torch_engine import TorchEngine
from prfaas.kvcache.layout import KVPiece, LayerKind
from tests.engine.contract import EngineContract, prefilled
from tests.engine.tiny_models import RECURRENT, VOCABULARY, change_config, save_tiny

CHUNK_TOKENS = 32
STEPS = 16
LENGTHS = (1, 2, 3, *(edge + around for edge in (CHUNK_TOKENS, 2 * CHUNK_TOKENS) for around in (-1, 0, 1)))
"""Lengths of prefills: shorter than the convolution's kernel, and around one chunk and two."""
DTYPES = ("float32", "bfloat16")
STEP = "step-of-own-cache"


def step_attention(
    module: Any, query: Any, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float, **more: Any
) -> Any:
    """Calls the engine's kernel of a decode step with what transformers' own cache has."""
    return attention(module, query, Ragged([key]), Ragged([value]), mask, scaling, **more)


AttentionInterface.register(STEP, step_attention)


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., TorchEngine]]:
    torch.set_num_threads(1)

    @functools.cache
    def directory_of(tiny: str, dtype: str) -> Path:
        return save_tiny(tmp_path_factory.mktemp(dtype), tiny, dtype)

    def load(tiny: str, dtype: str, copy: int = 0) -> TorchEngine:
        files = read_directory(directory_of(tiny, dtype), tiny)
        return TorchEngine(files, dtype="auto", chunk_tokens=CHUNK_TOKENS, device=torch.device("cpu"))

    yield functools.cache(load)


def random_tokens(seed: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (count,), generator=generator).tolist()


def installed(engine: TorchEngine, pieces: Sequence[KVPiece], length: int) -> SequenceCache:
    sequence = engine.reserve(length, length + STEPS)
    for piece in pieces:
        engine.install(sequence, piece)
    return sequence


def continued(engine: TorchEngine, sequence: SequenceCache, token_ids: Sequence[int]) -> torch.Tensor:
    """Returns [steps, vocabulary]: the logits after each token."""
    found = []
    for token_id in token_ids:
        found.append(engine.logits([sequence], [token_id])[0])
        sequence.grow()
    return torch.stack(found)


@torch.inference_mode()
def by_own_cache(engine: TorchEngine, prompt: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
    """Returns the same from one cache of transformers' own, which takes the prompt in the engine's chunks."""
    cache = DynamicCache(config=engine.model.config)

    def forward(part: Sequence[int], start: int) -> torch.Tensor:
        output = engine.model(
            input_ids=torch.tensor([part]),
            position_ids=torch.tensor([range(start, start + len(part))]),
            attention_mask=dict.fromkeys(RECURRENT_KINDS),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[0, -1]
        return logits

    for start in range(0, len(prompt), CHUNK_TOKENS):
        forward(prompt[start : start + CHUNK_TOKENS], start)
    engine.model.config._attn_implementation = STEP
    try:
        return torch.stack([forward([token_id], len(prompt) + step) for step, token_id in enumerate(token_ids)])
    finally:
        engine.model.config._attn_implementation = ATTENTION


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tiny", RECURRENT)
def test_logits_are_bit_for_bit_those_of_transformers_own_cache(
    engine_of: Callable[..., TorchEngine], tiny: str, dtype: str
) -> None:
    prefiller, decoder = engine_of(tiny, dtype), engine_of(tiny, dtype, 1)
    assert prefiller.describe() == decoder.describe()
    tokens = random_tokens(1, STEPS)
    for length in LENGTHS:
        prompt = random_tokens(length, length)
        pieces = prefilled(prefiller, prompt)
        elsewhere = continued(decoder, installed(decoder, pieces, length), tokens)
        assert torch.equal(elsewhere, continued(prefiller, installed(prefiller, pieces, length), tokens)), length
        assert torch.equal(elsewhere, by_own_cache(decoder, prompt, tokens)), length


@pytest.mark.parametrize("tiny", RECURRENT)
def test_a_state_that_was_lost_or_is_another_prompts_changes_the_logits(engine_of: Callable[..., TorchEngine], tiny: str) -> None:
    """Negative control: else the test above would prove nothing."""
    engine = engine_of(tiny, "float32")
    length = 2 * CHUNK_TOKENS + 1
    tokens = random_tokens(1, STEPS)
    pieces, others = (prefilled(engine, random_tokens(seed, length)) for seed in (7, 8))
    expected = continued(engine, installed(engine, pieces, length), tokens)
    rounding = 1e-4 * float(expected.std())
    shape = engine.places.state
    assert shape is not None
    halves = [slice(0, shape.recurrent_bytes), slice(shape.recurrent_bytes, None)] if shape.recurrent else [slice(None)]
    for layer in engine.places.states.values():
        for half in halves:
            for source in (None, others):
                changed = []
                for index, piece in enumerate(pieces):
                    if piece.range.layer == layer:
                        data = bytearray(piece.keys)
                        part = bytes(len(data)) if source is None else bytes(source[index].keys)
                        data[half] = part[half]
                        piece = piece._replace(keys=memoryview(data))
                    changed.append(piece)
                found = continued(engine, installed(engine, changed, length), tokens)
                assert float((found - expected).abs().max()) > 10 * rounding, (layer, half, source is None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tiny", RECURRENT)
def test_rows_of_a_batch_come_and_go_and_are_as_they_are_alone(
    engine_of: Callable[..., TorchEngine], tiny: str, dtype: str
) -> None:
    engine = engine_of(tiny, dtype)
    prompts = [random_tokens(seed, length) for seed, length in enumerate((0, 1, 3, 20, 32, 33, 64, 80))]
    tokens = [random_tokens(100 + row, STEPS) for row in range(len(prompts))]
    sequences = [installed(engine, prefilled(engine, prompt), len(prompt)) for prompt in prompts]
    together: list[list[torch.Tensor]] = [[] for _ in prompts]
    for step in range(STEPS):
        # Each row sits out some steps, so that the batch is another one at every step, in another order.
        rows = [row for row in range(len(prompts)) if (row + step) % 5 or step < 2]
        rows = rows[step % len(rows) :] + rows[: step % len(rows)]
        logits = engine.logits([sequences[row] for row in rows], [tokens[row][len(together[row])] for row in rows])
        for row, found in zip(rows, logits, strict=True):
            sequences[row].grow()
            together[row].append(found)
    for prompt, row_tokens, found in zip(prompts, tokens, together, strict=True):
        alone = continued(engine, installed(engine, prefilled(engine, prompt), len(prompt)), row_tokens[: len(found)])
        differences = (torch.stack(found).float() - alone.float()).abs()
        if dtype == "float32":
            assert float(differences.max()) <= 2e-4 * max(1.0, float(alone.std()))
        else:
            assert statistics.median(differences.flatten().tolist()) <= 0.05 * float(alone.float().std())


def test_a_step_that_failed_leaves_the_states_as_they_were(
    engine_of: Callable[..., TorchEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers change states in place, and a step is done again without the rows that failed."""
    engine = engine_of("granite-hybrid", "float32")
    prompt = random_tokens(2, 40)
    sampling = Sampling(max_tokens=4, temperature=0, top_logprobs=3)

    def row() -> DecodeRow:
        sequence = installed(engine, prefilled(engine, prompt[:-1]), len(prompt) - 1)
        return DecodeRow(sequence=sequence, token_id=prompt[-1], sampler=engine.sampler(sampling))

    def failing(*_: Any) -> Any:
        raise BadLogitsError([0])

    undisturbed, disturbed = row(), row()
    expected = engine.decode([undisturbed])
    with monkeypatch.context() as broken:
        broken.setattr(torch_engine, "sample", failing)
        with pytest.raises(BadLogitsError):
            engine.decode([disturbed])
    assert engine.decode([disturbed]) == expected


def test_states_leave_once_after_the_last_chunk_and_each_before_later_layers(engine_of: Callable[..., TorchEngine]) -> None:
    engine = engine_of("nemotron-h", "float32")
    kinds = [spec.kind for spec in engine.layout.layers]
    assert kinds == [LayerKind.RECURRENT, LayerKind.FULL, LayerKind.RECURRENT], "layers without a cache have no place"
    ranges = [tuple(piece.range) for piece in prefilled(engine, random_tokens(3, 70))]
    assert ranges == [(1, 0, 32), (1, 32, 64), (0, 0, 70), (1, 64, 70), (2, 0, 70)]


def test_a_bf16_model_keeps_its_recurrent_states_in_fp32(engine_of: Callable[..., TorchEngine]) -> None:
    engine = engine_of("qwen3-next", "bfloat16")
    recurrent_bytes, conv_bytes = 4 * 4 * 16 * 24, 2 * (2 * 2 * 16 + 4 * 24) * 4
    assert engine.layout.layers[0].state_bytes == recurrent_bytes + conv_bytes
    assert engine.sequence_bytes(10) == 10 * engine.layout.token_bytes(1) + 2 * 2 * (recurrent_bytes + conv_bytes)


class Amnesic(TorchEngine):
    """Loses the state of one layer on the way."""

    def install(self, sequence: Any, piece: KVPiece) -> None:
        lost = piece._replace(keys=memoryview(bytes(len(piece.keys)))) if piece.range.layer == 2 else piece
        super().install(sequence, lost)


@pytest.mark.parametrize("tiny", ["qwen3-next", "lfm2"])
def test_the_self_test_finds_a_lost_state(tmp_path: Path, tiny: str) -> None:
    files = read_directory(save_tiny(tmp_path, tiny, "bfloat16"), tiny)
    engine = Amnesic(files, dtype="auto", chunk_tokens=CHUNK_TOKENS, device=torch.device("cpu"))
    with pytest.raises(SelfTestError, match="the state of layer 2 differs by 1 of its size"):
        self_test(engine)


def test_a_configuration_with_infinity_in_it_is_read(tmp_path: Path) -> None:
    """`Infinity` is no JSON, and stands in configurations of Mamba 2's time steps."""
    directory = save_tiny(tmp_path, "nemotron-h")
    change_config(directory, time_step_limit="unbounded")
    path = directory / "config.json"
    path.write_text(path.read_text().replace('"unbounded"', "[0.0, Infinity]"))
    files = read_directory(directory, "nemotron-h")
    engine = TorchEngine(files, dtype="auto", chunk_tokens=CHUNK_TOKENS, device=torch.device("cpu"))
    assert list(engine.model.config.time_step_limit) == [0.0, float("inf")]


@torch.inference_mode()
def test_mamba_is_refused_since_its_chunks_are_not_its_whole_forward() -> None:
    """Shows the reason. Once this fails, transformers has learnt it, and the class may be served."""
    torch.manual_seed(1)
    config = transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.5
    )
    model: Any = transformers.MambaForCausalLM(config)
    model.eval()
    ids = torch.tensor([random_tokens(1, 40)])
    whole = model(input_ids=ids, use_cache=False).logits[0, -1]
    cache = DynamicCache(config=config)
    model(input_ids=ids[:, :-2], cache_params=cache, use_cache=True)
    in_chunks = model(input_ids=ids[:, -2:], cache_params=cache, use_cache=True).logits[0, -1]
    assert float((in_chunks - whole).pow(2).mean().sqrt() / whole.std()) > 10 * BOUNDS[torch.float32]


class TestRecurrentEngine(EngineContract):
    """The promises of every engine, with a prefix cache whose blocks have the state at their end."""

    @pytest.fixture(params=["qwen3-next", "falcon-h1", "lfm2"])
    def engine(self, engine_of: Callable[..., TorchEngine], request: pytest.FixtureRequest) -> TorchEngine:
        return engine_of(request.param, "float32")

    @pytest.fixture
    def prompt(self) -> list[int]:
        return random_tokens(4, 80)
