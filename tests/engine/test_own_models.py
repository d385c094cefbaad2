"""Models of one's own: KV that one engine prefills and another continues gives transformers' own tokens and log-probabilities."""

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.engine.protocol import DecodeRow, Engine
from prfaas.engine.served_classes import SERVED
from prfaas.engine.torch_engine import TorchEngine
from prfaas.kvcache.layout import KVPiece
from prfaas.kvcache.prefix_cache import PrefixCache
from tests.engine.tiny_models import TINY, VOCABULARY, WINDOW_TOKENS, change_config, class_name, save_tiny

CHUNK_TOKENS = 32
STEPS = 12
_EDGES = (CHUNK_TOKENS, WINDOW_TOKENS, 2 * CHUNK_TOKENS)
LENGTHS = (1, 2, *(1 + edge + around for edge in _EDGES for around in (-1, 0, 1)), 150)
"""Lengths of prompts. All tokens but the last are prefilled: around one chunk and two, around the window, and far beyond it."""
ROUNDING = 0.05
"""Difference of log-probabilities in bfloat16, by their standard deviation, that is rounding: sums run in other orders."""


def test_every_class_that_is_served_is_proven_here() -> None:
    assert {class_name(tiny) for tiny in TINY} == set(SERVED)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-tests are made anew."""
    monkeypatch.setenv("PRFAAS_CACHE_DIR", str(tmp_path / "cache"))


def engine_of(directory: Path, dtype: str = "auto") -> Engine:
    return build_engine(EngineConfig(model=str(directory), device="cpu", chunk_tokens=CHUNK_TOKENS, dtype=dtype))  # type: ignore[arg-type]


def answers(prefiller: Engine, decoder: Engine, prompts: Sequence[Sequence[int]]) -> list[list[tuple[int, dict[int, float]]]]:
    """Returns each prompt's greedy tokens with the log-probabilities of the likeliest ones, all decoded in one batch."""
    sampling = Sampling(max_tokens=STEPS, temperature=0, top_logprobs=5)
    rows = []
    for prompt in prompts:
        sequence = decoder.reserve(len(prompt) - 1, len(prompt) + STEPS)

        def install(piece: KVPiece, sequence: Any = sequence) -> None:
            decoder.install(sequence, KVPiece(piece.range, memoryview(bytes(piece.keys)), memoryview(bytes(piece.values))))

        prefiller.prefill(prompt[:-1], install, lambda: False)
        rows.append(DecodeRow(sequence=sequence, token_id=prompt[-1], sampler=decoder.sampler(sampling), forbid_eos=False))
    found: list[list[tuple[int, dict[int, float]]]] = [[] for _ in rows]
    for _ in range(STEPS):
        for answer, row, sampled in zip(found, rows, decoder.decode(rows), strict=True):
            row.token_id = sampled.token_id
            answer.append((sampled.token_id, dict(sampled.top)))
    return found


@torch.inference_mode()
def plain_logprobs(plain: Any, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    """Returns [steps, vocabulary]: what transformers' own forward says before each token of the answer."""
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    logits: torch.Tensor = plain(ids, logits_to_keep=len(answer), use_cache=False).logits[0]
    return logits.float().log_softmax(-1)


def prompts_of(seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tiny", TINY)
def test_tokens_and_logprobs_are_those_of_transformers(tiny: str, dtype: str, tmp_path: Path) -> None:
    directory = save_tiny(tmp_path, tiny, dtype)
    prefiller, decoder = engine_of(directory), engine_of(directory)
    assert prefiller.describe() == decoder.describe()
    assert prefiller.describe().layout.dtype == dtype
    plain = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager")
    prompts = prompts_of(3)
    errors, regrets, spreads = [], [], []
    for prompt, answer in zip(prompts, answers(prefiller, decoder, prompts), strict=True):
        expected = plain_logprobs(plain, prompt, [token for token, _ in answer])
        spreads.append(float(expected.std()))
        for logprobs, (token, top) in zip(expected, answer, strict=True):
            errors += [abs(logprob - float(logprobs[token_id])) for token_id, logprob in top.items()]
            regrets.append(float(logprobs.max() - logprobs[token]))
    if dtype == "float32":
        assert max(regrets) == 0, "every token is the one that transformers finds likeliest"
        assert max(errors) <= 2e-4
    else:
        assert statistics.median(errors) <= ROUNDING * statistics.mean(spreads)
        assert statistics.median(regrets) <= ROUNDING * statistics.mean(spreads)


def test_a_penalty_of_repetition_sees_prompt_and_answer_as_transformers_does(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path, "llama")
    engine = engine_of(directory)
    assert isinstance(engine, TorchEngine)
    plain: Any = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype="float32")
    prompt = prompts_of(8)[-1]
    answered: dict[float, list[int]] = {}
    for penalty in (1.0, 1.5):
        sampling = Sampling(max_tokens=24, temperature=0, repetition_penalty=penalty, ignore_eos=True)
        sequence = engine.reserve(len(prompt) - 1, len(prompt) + 24)
        engine.prefill(prompt[:-1], partial(engine.install, sequence), lambda: False)
        row = DecodeRow(sequence=sequence, token_id=prompt[-1], sampler=engine.sampler(sampling, prompt))
        answered[penalty] = []
        for _ in range(24):
            row.token_id = engine.decode([row])[0].token_id
            answered[penalty].append(row.token_id)
        ids = torch.tensor([prompt])
        said = {"repetition_penalty": penalty, "do_sample": False, "max_new_tokens": 24, "eos_token_id": None}
        expected = plain.generate(ids, attention_mask=torch.ones_like(ids), **said)
        assert answered[penalty] == expected[0, len(prompt) :].tolist()
    assert answered[1.0] != answered[1.5]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_latents_are_shipped_as_they_are_cached_and_a_cached_prefix_gives_the_same_bits(dtype: str, tmp_path: Path) -> None:
    engine = engine_of(save_tiny(tmp_path, "deepseek-v3", dtype))
    layout = engine.describe().layout
    assert {(spec.kv_heads, spec.head_dim, spec.value_dim) for spec in layout.layers} == {(1, 24, 8)}, "not 4 heads of 24 and 12"
    prompt, cache = prompts_of(9)[-1], PrefixCache(CHUNK_TOKENS, 1 << 20)
    kv: list[list[bytes]] = []
    for times in range(2):
        pieces: list[KVPiece] = []
        with cache.pin(prompt) as prefix:
            assert prefix.cached_tokens == times * (len(prompt) // CHUNK_TOKENS * CHUNK_TOKENS)
            engine.prefill(prompt, pieces.append, lambda: False, prefix=prefix)
        of_layers = [[each for each in pieces if each.range.layer == layer] for layer in range(len(layout.layers))]
        kv.append([b"".join(each.keys for each in of) + b"".join(each.values for each in of) for of in of_layers])
    assert kv[0] == kv[1]


def kv_of(directory: Path, prompt: Sequence[int]) -> list[tuple[Any, bytes, bytes]]:
    pieces: list[tuple[Any, bytes, bytes]] = []
    engine_of(directory).prefill(
        prompt, lambda piece: pieces.append((piece.range, bytes(piece.keys), bytes(piece.values))), lambda: False
    )
    return pieces


def test_a_configuration_in_the_words_of_older_versions_is_the_same_model(tmp_path: Path) -> None:
    """Most repositories of the hub have such ones."""
    directory = save_tiny(tmp_path, "llama-rope-llama3-tied", "bfloat16")
    expected = kv_of(directory, prompts_of(5)[-1])
    rope = dict(TINY["llama-rope-llama3-tied"][1]["rope_parameters"])
    theta = rope.pop("rope_theta")
    older = {"rope_theta": theta, "rope_scaling": rope, "torch_dtype": "bfloat16"}
    change_config(directory, rope_parameters=None, dtype=None, head_dim=None, **older)
    assert kv_of(directory, prompts_of(5)[-1]) == expected
    change_config(directory, rope_scaling=None)
    assert kv_of(directory, prompts_of(5)[-1]) != expected


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    """Phi-3's repositories bring code for a class that transformers has too."""
    directory = save_tiny(tmp_path, "phi3")
    (directory / "modeling_phi3.py").write_text("raise SystemExit('the code of the model ran')")
    names = {"AutoConfig": "modeling_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}
    change_config(directory, auto_map=names)
    assert kv_of(directory, [1, 2, 3])
