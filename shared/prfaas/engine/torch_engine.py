"""Engine `torch`: Hugging Face's model classes with our attention and our caches, on a CPU or a GPU."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.attention import sliding_mask
from prfaas.engine.decode_cache import DecodeCache
from prfaas.engine.fingerprint import fingerprint_of
from prfaas.engine.model_directory import ModelFiles
from prfaas.engine.model_layout import RECURRENT_KINDS, attended, is_latent
from prfaas.engine.model_loading import load_model
from prfaas.engine.prefill_cache import PrefillCache
from prfaas.engine.protocol import DecodeRow, EngineDescription, EngineError, PrefillCancelled, SampledToken
from prfaas.engine.row_masks import masks_of, token_mask
from prfaas.engine.sampling import Sampler, sample
from prfaas.engine.sequence_cache import SequenceCache, slots_of
from prfaas.engine.served_classes import Windows
from prfaas.kvcache.layout import KVPiece, LayerKind, LayerRange
from prfaas.kvcache.pinned_prefix import PinnedPrefix

_FLOAT_BYTES = 4


class TorchEngine:
    """Engine for real models; see prfaas.engine.protocol.Engine."""

    def __init__(self, files: ModelFiles, *, dtype: str, chunk_tokens: int, device: torch.device) -> None:
        """Loads the weights. `dtype` may be `auto`: that of the weights. Raises WeightsError."""
        loaded = load_model(files, dtype, device)
        config = loaded.config.transformers
        self.device = device
        self.model = loaded.model
        self.layout = loaded.config.layout
        self.places = loaded.config.places
        self.weights_xxh3_128 = loaded.weights_xxh3_128
        self.dtype: torch.dtype = getattr(torch, self.layout.dtype)
        self.vocabulary_size: int = config.vocab_size
        # States before and after, queries, keys, values and their copies; gate, up and product of the MLP.
        self._chunk_token_bytes: int = _FLOAT_BYTES * (8 * config.hidden_size + 3 * config.intermediate_size)
        self.attended = attended(config)
        self._heads_per_kv_head: int = config.num_attention_heads // self.attended.kv_heads
        # Of a layer with latent attention: what it expands of each token, its parts, and their copies side by side.
        self._expanded_token_bytes = (
            4 * self.attended.kv_heads * max(self.attended.key_dim, self.attended.value_dim) * self.layout.dtype_bytes
            if is_latent(config)
            else 0
        )
        # Classes that know kinds of layers take one mask per kind, others take the mask itself.
        self._mask_per_kind = loaded.config.windows is Windows.BY_LAYER
        self._description = EngineDescription(
            model=files.model,
            fingerprint=fingerprint_of(files.model, loaded.weights_xxh3_128, files.config_xxh3_128, self.layout, chunk_tokens),
            layout=self.layout,
            max_context_tokens=files.max_context_tokens,
            chunk_tokens=chunk_tokens,
            eos_token_ids=files.eos_token_ids,
        )

    def with_chunks(self, chunk_tokens: int) -> "TorchEngine":
        """Returns an engine of the same model that prefills in other chunks. It shares the weights."""
        other = copy.copy(self)
        other._description = msgspec.structs.replace(self._description, chunk_tokens=chunk_tokens)
        return other

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
        cache = PrefillCache(
            self.layout, len(token_ids), self.dtype, self.device, on_piece, from_token=from_token, places=self.places
        )
        if prefix is not None and prefix.tokens:
            cache.load(prefix.loaded(), prefix.tokens)
            for piece in prefix.needed(self.layout, len(token_ids), from_token):
                on_piece(piece)
        for start in range(cache.end, len(token_ids), self._description.chunk_tokens):
            if cancelled():
                raise PrefillCancelled
            end = min(start + self._description.chunk_tokens, len(token_ids))
            kept = prefix.kept_ranges(self.layout, start, end) if prefix is not None else []
            cache.begin_chunk(start, end, kept)
            self._forward(self.model.base_model, [token_ids[start:end]], [range(start, end)], self._chunk_masks(cache), cache)
            cache.end_chunk()
            if prefix is not None and prefix.wants(start, end):
                prefix.append(*cache.take_kept())

    def reserve(self, prefill_tokens: int, total_tokens: int) -> SequenceCache:
        if not 0 <= prefill_tokens < total_tokens:
            raise EngineError(f"a sequence of {total_tokens} tokens has no room to go on after {prefill_tokens} prefilled ones")
        if total_tokens > self._description.max_context_tokens:
            raise EngineError(f"{total_tokens} tokens exceed the model's context of {self._description.max_context_tokens}")
        return SequenceCache(self.layout, prefill_tokens, total_tokens, self.dtype, self.device, self.places.state)

    def sequence_bytes(self, total_tokens: int) -> int:
        layers = range(len(self.layout.layers))
        tokens_bytes = sum(slots_of(self.layout, layer, total_tokens) * self.layout.token_bytes(layer) for layer in layers)
        # A step's states stand beside those before it until it is done.
        return tokens_bytes + 2 * sum(spec.state_bytes for spec in self.layout.layers)

    def prefill_bytes(self, prefill_tokens: int) -> int:
        chunk_tokens = min(prefill_tokens, self._description.chunk_tokens)
        states_bytes = sum(spec.state_bytes for spec in self.layout.layers)
        state = self.places.state
        # A mask of one number per pair of a chunk's token and one before it; layers free what they compute with. States are held
        # once as they grow and once as they leave, and their layers compute in squares.
        return (
            self.layout.total_bytes(prefill_tokens)
            + (0 if state is None else states_bytes + state.chunk_bytes(chunk_tokens))
            + chunk_tokens * self._chunk_token_bytes
            + chunk_tokens * prefill_tokens * _FLOAT_BYTES
            + prefill_tokens * self._expanded_token_bytes
        )

    def free_bytes(self) -> int | None:
        return torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else None

    def install(self, sequence: SequenceCache, piece: KVPiece) -> None:
        sequence.install(piece)

    def read(self, sequence: SequenceCache, piece: LayerRange) -> KVPiece:
        return sequence.read(piece)

    def sampler(self, sampling: Sampling, prompt: Sequence[int] = ()) -> Sampler:
        return Sampler(sampling, prompt)

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
        logits = self.logits(sequences, [row.token_id for row in rows])
        for row, sequence in zip(rows, sequences, strict=True):
            row.sampler.see(row.token_id, sequence.tokens)
        tokens = sample(
            logits,
            [row.sampler for row in rows],
            [row.forbid_eos for row in rows],
            self._description.eos_token_ids,
            {index: token_mask(mask, self.vocabulary_size).to(logits.device) for index, mask in masks_of(rows).items()},
        )
        for sequence in sequences:
            sequence.grow()
        return tokens

    @torch.inference_mode()
    def logits(self, sequences: Sequence[SequenceCache], token_ids: Sequence[int]) -> torch.Tensor:
        """Computes one token per sequence, by the class's own head. Returns [rows, vocabulary]; no sequence has grown."""
        no_masks = dict.fromkeys(RECURRENT_KINDS) if self._mask_per_kind else None
        positions = [[sequence.tokens] for sequence in sequences]
        cache = DecodeCache(sequences, self.places, self.dtype)
        output = self._forward(self.model, [[each] for each in token_ids], positions, no_masks, cache)
        cache.hand_back()
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _forward(
        self,
        module: Any,
        token_ids: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
        masks: Any,
        cache: PrefillCache | DecodeCache,
    ) -> Any:
        """Runs the model, or what of it lies below its head."""
        return module(
            input_ids=torch.tensor(token_ids, device=self.device),
            position_ids=torch.tensor(positions, device=self.device),
            attention_mask=masks,
            past_key_values=cache,
            use_cache=True,
        )

    def _chunk_masks(self, cache: PrefillCache) -> Any:
        has_sliding = any(spec.kind is LayerKind.SLIDING for spec in self.layout.layers)
        sliding = sliding_mask(cache, self._heads_per_kv_head) if has_sliding else None
        return dict.fromkeys(RECURRENT_KINDS) | {"sliding_attention": sliding} if self._mask_per_kind else sliding

    def _check_tokens(self, token_ids: Sequence[int]) -> None:
        if token_ids and not 0 <= min(token_ids) <= max(token_ids) < self.vocabulary_size:
            raise EngineError(
                f"token ids are 0 to {self.vocabulary_size - 1}; there are some from {min(token_ids)} to {max(token_ids)}"
            )
