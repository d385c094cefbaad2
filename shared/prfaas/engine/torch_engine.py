"""Engine `torch`: Hugging Face's model classes with our attention and our caches, on a CPU or a GPU."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.attention import ATTENTION, sliding_mask
from prfaas.engine.decode_cache import DecodeCache
from prfaas.engine.fingerprint import fingerprint_of
from prfaas.engine.model_layout import layout_of
from prfaas.engine.packed_linear import PackedLinear, can_pack, replace_linears
from prfaas.engine.prefill_cache import PrefillCache
from prfaas.engine.protocol import DecodeRow, EngineDescription, EngineError, PrefillCancelled, SampledToken
from prfaas.engine.sampling import Sampler, sample
from prfaas.engine.sequence_cache import SequenceCache, slots_of
from prfaas.engine.weights import ModelFiles, verify_weights
from prfaas.engine.wide_linear import WideLinear, should_widen
from prfaas.kvcache.layout import KVPiece, LayerKind, LayerRange
from prfaas.kvcache.prefix_cache import PinnedPrefix

_FLOAT_BYTES = 4


class TorchEngine:
    """Engine for real models; see prfaas.engine.protocol.Engine."""

    def __init__(self, files: ModelFiles, *, dtype: str, chunk_tokens: int, device: torch.device) -> None:
        """Loads the weights. Raises WeightsError."""
        verify_weights(files)
        self.device = device
        self.dtype: torch.dtype = getattr(torch, dtype)
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        config = transformers.AutoConfig.from_pretrained(files.directory, local_files_only=True)
        model_class = getattr(transformers, config.architectures[0])
        self.model = model_class.from_pretrained(
            files.directory, config=config, dtype=self.dtype, attn_implementation=ATTENTION, local_files_only=True
        )
        self.model.to(device)
        if can_pack(self.dtype, device):
            replace_linears(self.model, PackedLinear)
        elif should_widen(self.dtype, device):
            replace_linears(self.model, WideLinear)
        self.layout = layout_of(config, dtype)
        self.vocabulary_size: int = config.vocab_size
        # States before and after, queries, keys, values and their copies; gate, up and product of the MLP.
        self._chunk_token_bytes: int = _FLOAT_BYTES * (8 * config.hidden_size + 3 * config.intermediate_size)
        self._heads_per_kv_head: int = config.num_attention_heads // config.num_key_value_heads
        # Gemma's classes take one mask per kind of layer, Llama's take the mask itself.
        self._mask_per_kind = getattr(config, "layer_types", None) is not None
        self._description = EngineDescription(
            model=files.model,
            fingerprint=fingerprint_of(files.model, files.weights_xxh3_128, self.layout, chunk_tokens),
            layout=self.layout,
            max_context_tokens=files.max_context_tokens,
            chunk_tokens=chunk_tokens,
            eos_token_ids=files.eos_token_ids,
        )

    def describe(self) -> EngineDescription:
        return self._description

    @torch.inference_mode()
    def prefill(
        self,
        token_ids: Sequence[int],
        on_piece: Callable[[KVPiece], None],
        cancelled: Callable[[], bool],
        *,
        prefix: PinnedPrefix | None = None,
        from_token: int = 0,
    ) -> None:
        self._check_tokens(token_ids)
        if len(token_ids) > self._description.max_context_tokens:
            raise EngineError(
                f"a prefill of {len(token_ids)} tokens exceeds the model's context of {self._description.max_context_tokens}"
            )
        cache = PrefillCache(self.layout, len(token_ids), self.dtype, self.device, on_piece, from_token=from_token)
        if prefix is not None and prefix.blocks:
            cache.load(prefix.blocks, prefix.tokens)
            for piece in prefix.needed(self.layout, len(token_ids), from_token):
                on_piece(piece)
        for start in range(cache.end, len(token_ids), self._description.chunk_tokens):
            if cancelled():
                raise PrefillCancelled
            end = min(start + self._description.chunk_tokens, len(token_ids))
            cache.begin_chunk(start, end, keep=prefix is not None and prefix.wants(start, end))
            self._forward([token_ids[start:end]], [range(start, end)], self._chunk_masks(cache), cache)
            if prefix is not None and (block := cache.take_block()):
                prefix.append(block, sum(piece.size_bytes for piece in block))

    def reserve(self, prefill_tokens: int, total_tokens: int) -> SequenceCache:
        if not 0 <= prefill_tokens < total_tokens:
            raise EngineError(f"a sequence of {total_tokens} tokens has no room to go on after {prefill_tokens} prefilled ones")
        if total_tokens > self._description.max_context_tokens:
            raise EngineError(f"{total_tokens} tokens exceed the model's context of {self._description.max_context_tokens}")
        return SequenceCache(self.layout, prefill_tokens, total_tokens, self.dtype, self.device)

    def sequence_bytes(self, total_tokens: int) -> int:
        layers = range(len(self.layout.layers))
        return sum(slots_of(self.layout, layer, total_tokens) * self.layout.token_bytes(layer) for layer in layers)

    def prefill_bytes(self, prefill_tokens: int) -> int:
        chunk_tokens = min(prefill_tokens, self._description.chunk_tokens)
        # A mask of one number per pair of a chunk's token and one before it; layers free what they compute with.
        return (
            self.layout.total_bytes(prefill_tokens)
            + chunk_tokens * self._chunk_token_bytes
            + chunk_tokens * prefill_tokens * _FLOAT_BYTES
        )

    def free_bytes(self) -> int | None:
        return torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else None

    def install(self, sequence: SequenceCache, piece: KVPiece) -> None:
        sequence.install(piece)

    def read(self, sequence: SequenceCache, piece: LayerRange) -> KVPiece:
        return sequence.read(piece)

    def sampler(self, sampling: Sampling) -> Sampler:
        return Sampler(sampling)

    @torch.inference_mode()
    def decode(self, rows: Sequence[DecodeRow]) -> list[SampledToken]:
        if not rows:
            return []
        sequences: list[SequenceCache] = [row.sequence for row in rows]
        self._check_tokens([row.token_id for row in rows])
        for index, sequence in enumerate(sequences):
            if missing := sequence.missing():
                raise EngineError(f"row {index} cannot be decoded: the KV of its layers {missing} is not installed")
            if sequence.tokens >= sequence.total_tokens:
                raise EngineError(f"row {index} is full: it has all {sequence.total_tokens} tokens that were reserved")
        no_masks = dict.fromkeys(("full_attention", "sliding_attention")) if self._mask_per_kind else None
        positions = [[sequence.tokens] for sequence in sequences]
        hidden = self._forward([[row.token_id] for row in rows], positions, no_masks, DecodeCache(sequences))
        logits = self.model.lm_head(hidden[:, -1])
        tokens = sample(logits, [row.sampler for row in rows], [row.forbid_eos for row in rows], self._description.eos_token_ids)
        for sequence in sequences:
            sequence.tokens += 1
        return tokens

    def _forward(
        self,
        token_ids: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
        masks: Any,
        cache: PrefillCache | DecodeCache,
    ) -> torch.Tensor:
        """Runs the model without its head. Returns hidden states [rows, tokens, hidden size]."""
        output = self.model.model(
            input_ids=torch.tensor(token_ids, device=self.device),
            position_ids=torch.tensor(positions, device=self.device),
            attention_mask=masks,
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def _chunk_masks(self, cache: PrefillCache) -> Any:
        if not self._mask_per_kind:
            return None
        has_sliding = any(spec.kind is LayerKind.SLIDING for spec in self.layout.layers)
        sliding = sliding_mask(cache, self._heads_per_kv_head) if has_sliding else None
        return {"full_attention": None, "sliding_attention": sliding}

    def _check_tokens(self, token_ids: Sequence[int]) -> None:
        if token_ids and not 0 <= min(token_ids) <= max(token_ids) < self.vocabulary_size:
            raise EngineError(
                f"token ids are 0 to {self.vocabulary_size - 1}; there are some from {min(token_ids)} to {max(token_ids)}"
            )
