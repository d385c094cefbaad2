"""Self-test of a loaded model: KV prefilled in chunks, exported and imported gives the logits of the class's own forward.

Reference is the class's whole forward with transformers' own masks and attention. What so short a test cannot show, such as a
window of 4,096 tokens, and what this attention leaves out too, such as soft caps, is read off the class's calls of attention.
"""

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface, DynamicCache

from prfaas.engine.attention import ATTENTION, attention
from prfaas.engine.protocol import EngineError
from prfaas.engine.sequence_cache import SequenceCache
from prfaas.engine.torch_engine import TorchEngine
from prfaas.kvcache.layout import KVPiece, LayerKind

BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Difference of logits by dtype that is rounding, since sums run in other orders: the root mean square over the vocabulary,
median of the tokens, in standard deviations of the reference's logits. In bfloat16 the shipped models differ by 0.03 and 0.02,
as much as transformers' own kernels do among themselves."""
STATE_BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Difference of a recurrent layer's state that is rounding, by its own size. One that was lost differs by 1, and one of another
prompt by more: even where a model's logits hardly show it."""
CHUNK_TOKENS = 64
STEPS = 6
_PROMPT_TOKENS = 160
_LONGEST_WINDOW_TOKENS = 1024
"""Longest window that the prompt is made to exceed."""
_PROBE = "prfaas-probe"
_HARMLESS = frozenset({"dropout", "sliding_window", "position_ids", "use_cache", "is_causal"})
"""Arguments that change nothing here, or that are checked by themselves."""


class SelfTestError(EngineError):
    """Refusal of a model whose logits, or calls of attention, are not those that the engine computes."""


class _Call(NamedTuple):
    module: Any
    key_shape: tuple[int, ...]
    value_shape: tuple[int, ...]
    arguments: dict[str, Any]


def self_test(engine: TorchEngine) -> float:
    """Returns the difference of logits in standard deviations, as BOUNDS has it. Raises SelfTestError."""
    try:
        _check_calls(engine)
        difference = _difference(engine.with_chunks(CHUNK_TOKENS))
    except SelfTestError:
        raise
    except Exception as error:  # whatever a class raises that is built in another way than those that are known
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SelfTestError(f"the self-test of {engine.describe().model} could not be run: {reason}") from error
    if not difference <= (bound := BOUNDS[engine.dtype]):
        raise SelfTestError(
            f"{engine.describe().model} fails its self-test: after a prefill in chunks, export and import its logits differ by "
            f"{difference:.2g} standard deviations from transformers' own; in {engine.layout.dtype} at most "
            f"{bound:g} is rounding"
        )
    return difference


def _check_calls(engine: TorchEngine) -> None:
    """Checks what each layer asks of attention against the layout, and that there is nothing that the kernels here leave out."""
    calls: list[_Call] = []

    def probe(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **arguments: Any) -> Any:
        calls.append(_Call(module, key.shape, value.shape, arguments))
        return attention(module, query, key, value, mask, scaling, **arguments)

    AttentionInterface.register(_PROBE, probe)
    with _attention_of(engine, _PROBE):
        engine.prefill([0, 0], lambda _: None, lambda: False)
    places = engine.places.kv
    if [call.module.layer_idx for call in calls] != list(places):
        raise SelfTestError(f"attention was called {len(calls)} times in {len(places)} layers; expected is once in each")
    kv_heads, key_dim, value_dim = engine.attended
    expected = (1, kv_heads, 2, key_dim), (1, kv_heads, 2, value_dim)
    for layer, call in zip(places, calls, strict=True):
        spec = engine.layout.layers[places[layer]]
        if (call.key_shape, call.value_shape) != expected:
            raise SelfTestError(
                f"keys and values of layer {layer} have the shapes {tuple(call.key_shape)} and {tuple(call.value_shape)}; "
                f"expected are {expected[0]} and {expected[1]}"
            )
        window_tokens = spec.window_tokens if spec.kind is LayerKind.SLIDING else None
        if (found := call.arguments.get("sliding_window")) != window_tokens:
            raise SelfTestError(f"layer {layer} asks for a window of {found} tokens, and the KV layout has {window_tokens}")
        if not getattr(call.module, "is_causal", True):
            raise SelfTestError(f"layer {layer} lets tokens see later ones; expected is causal attention")
        if unknown := sorted(name for name, value in call.arguments.items() if name not in _HARMLESS and value is not None):
            raise SelfTestError(f"layer {layer} asks attention for {', '.join(unknown)}, which the kernels here leave out")


@torch.inference_mode()
def _difference(engine: TorchEngine) -> float:
    prompt_tokens = min(_prompt_tokens(engine), engine.describe().max_context_tokens - STEPS)
    token_ids = random.Random(1).choices(range(engine.vocabulary_size), k=prompt_tokens + STEPS)
    lengths = [prompt_tokens // 2, prompt_tokens]
    if engine.places.states:
        # Recurrent layers compute a last chunk of one token in another way than longer ones.
        lengths.append(CHUNK_TOKENS + 1)
    sequences = [_imported(engine, token_ids[:length], length + STEPS) for length in lengths]
    for length, sequence in zip(lengths, sequences, strict=True):
        _check_states(engine, token_ids[:length], sequence)
    positions = [[length + step for length in lengths] for step in range(STEPS)]
    with _attention_of(engine, "sdpa"):
        kept = torch.tensor([position for step in positions for position in step], device=engine.device)
        ids = torch.tensor([token_ids], device=engine.device)
        expected = engine.model(input_ids=ids, logits_to_keep=kept, use_cache=False).logits[0].float()
    computed = []
    for step in positions:
        computed.append(engine.logits(sequences, [token_ids[position] for position in step]).float())
        for sequence in sequences:
            sequence.grow()
    differences = (torch.cat(computed) - expected).pow(2).mean(-1).sqrt()
    # The median: where a router of experts stands on the edge, rounding alone moves single tokens far.
    return float(differences.median() / expected.std())


def _check_states(engine: TorchEngine, token_ids: Sequence[int], sequence: SequenceCache) -> None:
    """Checks imported states against those that the class's whole forward leaves in transformers' own cache."""
    if not engine.places.states:
        return
    own: Any = DynamicCache(config=engine.model.config)
    with _attention_of(engine, "sdpa"):
        ids = torch.tensor([token_ids], device=engine.device)
        engine.model.base_model(input_ids=ids, past_key_values=own, use_cache=True)
    for layer, place in engine.places.states.items():
        expected = own.layers[layer].recurrent_states[0], own.layers[layer].conv_states[0]
        for found, whole in zip(sequence.states[place].parts, expected, strict=True):
            if found is None:
                continue
            difference = float((found.float() - whole[0].float()).norm() / whole.float().norm())
            if not difference <= (bound := STATE_BOUNDS[engine.dtype]):
                raise SelfTestError(
                    f"{engine.describe().model} fails its self-test: after a prefill of {len(token_ids)} tokens in chunks "
                    f"the state of layer {layer} differs by {difference:.2g} of its size from that after the class's whole "
                    f"forward; in {engine.layout.dtype} at most {bound:g} is rounding"
                )


def _prompt_tokens(engine: TorchEngine) -> int:
    windows = [spec.window_tokens for spec in engine.layout.layers if spec.kind is LayerKind.SLIDING]
    beyond = [window + CHUNK_TOKENS for window in windows if window <= _LONGEST_WINDOW_TOKENS]
    return max([_PROMPT_TOKENS, *beyond])


def _imported(engine: TorchEngine, token_ids: Sequence[int], total_tokens: int) -> SequenceCache:
    sequence = engine.reserve(len(token_ids), total_tokens)

    def install(piece: KVPiece) -> None:
        engine.install(sequence, KVPiece(piece.range, memoryview(bytes(piece.keys)), memoryview(bytes(piece.values))))

    engine.prefill(token_ids, install, lambda: False)
    return sequence


@contextlib.contextmanager
def _attention_of(engine: TorchEngine, name: str) -> Iterator[None]:
    """Has the model's layers call another attention for a while."""
    config = engine.model.config
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = ATTENTION
