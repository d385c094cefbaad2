"""The `emulated` engine: a profile's pace, real bytes of KV, and tokens that prove which KV was installed. No torch.

An answer is a hash of the bytes that were installed and of the tokens so far, so another cache gives another answer.
What the host does around the engine hides behind the emulated time, as it does behind a device that computes meanwhile.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import xxhash

from prfaas.capacity.builtin import builtin_profile
from prfaas.capacity.profiles import Profile, ProfileError
from prfaas.contracts.to_decode import Sampling
from prfaas.engine.emulated_kv import PrefixHashes
from prfaas.engine.emulated_model import EMULATED_MODELS, EOS_TOKEN_ID, MAX_CONTEXT_TOKENS
from prfaas.engine.emulated_sequence import EmulatedSequence
from prfaas.engine.protocol import DecodeRow, EngineDescription, EngineError, PrefillCancelled, SampledToken
from prfaas.engine.row_masks import allowed_ids, masks_of
from prfaas.kvcache.block import Part
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange
from prfaas.kvcache.pinned_prefix import PinnedPrefix

SLICE_S = 0.05
"""Longest sleep of a prefill between two looks at `cancelled()`."""
HIDDEN_SHARE = 0.25
"""Share of a decode step that the host may take between two steps without slowing the emulated device."""
_ANSWER_BYTES = b"abcdefghijklmnopqrstuvwxyz      "
"""Bytes of answers. Each is a whole character, so that each token is text at once."""

_LETTERS = frozenset(_ANSWER_BYTES)
_ENDS = frozenset([*b'"]},:', EOS_TOKEN_ID])
"""Tokens that end a string, a list or an object in JSON, or the answer."""


class EmulatedConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    profile: str = "paper-1t-h20"
    """Machine to be as fast as: a built-in profile's name, or the path of a profile's JSON file."""
    time_scale: float = 1.0
    """Seconds of the profile in one second here: 10 is ten times as fast."""
    byte_scale: float = 1.0
    """Bytes of the profile that one byte here stands for. All workers of a model need the same."""
    token_scale: float = 1.0
    """Tokens of the profile that one token here stands for, in prompts and in answers. All workers of a model need the same."""

    def __post_init__(self) -> None:
        for name, value in (("time-scale", self.time_scale), ("byte-scale", self.byte_scale), ("token-scale", self.token_scale)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}; it must be positive")

    def load_profile(self) -> Profile:
        """Raises ProfileError."""
        return Profile.load(Path(self.profile)) if self.profile.endswith(".json") else builtin_profile(self.profile)


class EmulatedEngine:
    """Engine without a model; see prfaas.engine.protocol.Engine."""

    def __init__(self, model: str, config: EmulatedConfig, *, chunk_tokens: int) -> None:
        """Raises EngineError for a model or profile that does not exist, or scales that leave nothing to emulate."""
        if model not in EMULATED_MODELS:
            raise EngineError(f"the emulated engine has no model {model!r}; it has {', '.join(sorted(EMULATED_MODELS))}")
        spec = EMULATED_MODELS[model]
        try:
            self.profile = config.load_profile()
            self.layout = spec.layout(
                builtin_profile(spec.kv_profile), byte_scale=config.byte_scale, token_scale=config.token_scale
            )
        except (ProfileError, ValueError) as error:
            raise EngineError(str(error)) from error
        self.config = config
        self._step_due_s = 0.0
        self._description = EngineDescription(
            model=model,
            fingerprint=_fingerprint(model, self.layout, chunk_tokens, config.token_scale),
            layout=self.layout,
            max_context_tokens=MAX_CONTEXT_TOKENS,
            chunk_tokens=chunk_tokens,
            eos_token_ids=frozenset([EOS_TOKEN_ID]),
        )

    def describe(self) -> EngineDescription:
        return self._description

    def prefill_s(self, tokens: int, cached_tokens: int = 0) -> float:
        """Returns the time that `tokens` take here behind `cached_tokens` cached ones, s."""
        scale = self.config.token_scale
        return self.profile.rest_s((cached_tokens + tokens) * scale, cached_tokens * scale) / self.config.time_scale

    def step_s(self, batch: int) -> float:
        """Returns T_decode here, s. Above BS_max the machine makes no more tokens per second, so the step grows with the batch.

        Raises ProfileError when the profile has no decode points."""
        full = self.profile.batch_max()
        device_s = self.profile.step_s(min(batch, full)) * max(1.0, batch / full)
        return device_s * self.config.token_scale / self.config.time_scale

    def prefill(
        self,
        token_ids: Sequence[int],
        on_piece: Callable[[KVPiece], None],
        cancelled: Callable[[], bool],
        *,
        prefix: PinnedPrefix | None = None,
        from_token: int = 0,
    ) -> None:
        """Prefills in the time of the tokens that are not cached, in which they attend to those that are."""
        due_s = time.monotonic()
        _check_tokens(token_ids)
        total_tokens = len(token_ids)
        if total_tokens > MAX_CONTEXT_TOKENS:
            raise EngineError(f"a prefill of {total_tokens} tokens exceeds the model's context of {MAX_CONTEXT_TOKENS}")
        hashes = PrefixHashes(token_ids)
        cached_tokens = self._load(prefix, total_tokens, from_token, on_piece) if prefix is not None else 0
        if cached_tokens:
            due_s = time.monotonic()  # the link may have held up what is cached
        layers = len(self.layout.layers)
        begun_s = 0.0
        for start in range(cached_tokens, total_tokens, self._description.chunk_tokens):
            end = min(start + self._description.chunk_tokens, total_tokens)
            # The curve's constant part falls into the first chunk.
            ended_s = max(begun_s, self.prefill_s(end - cached_tokens, cached_tokens))
            layer_s = (ended_s - begun_s) / layers
            begun_s = ended_s
            parts = {part.layer: part for part in self.layout.chunk_ranges(start, end, total_tokens, from_token)}
            kept = prefix.kept_ranges(self.layout, start, end) if prefix is not None else []
            block = {part.layer: hashes.piece(self.layout, part) for part in kept if self._is_full(part.layer)}
            for layer in range(layers):
                piece = None
                if layer in parts:
                    part = parts[layer]
                    whole = block.get(layer)
                    piece = hashes.piece(self.layout, part) if whole is None else whole.part(part.start, part.end)
                due_s += layer_s
                _sleep_until(due_s, cancelled)
                if piece is not None:
                    given_s = time.monotonic()
                    on_piece(piece)
                    # Held for longer than the next layer computes, the device stood still. Being woken late is no such stall.
                    due_s += max(0.0, time.monotonic() - given_s - layer_s)
            if prefix is not None and prefix.wants(start, end):
                states = hashes.states(self.layout, [part for part in kept if not self._is_full(part.layer)])
                prefix.append(Part.of(block.values()), states)

    def _load(
        self,
        prefix: PinnedPrefix,
        total_tokens: int,
        from_token: int,
        on_piece: Callable[[KVPiece], None],
    ) -> int:
        """Hands out what is cached. Returns the number of cached tokens."""
        for piece in prefix.needed(self.layout, total_tokens, from_token):
            on_piece(piece)
        return prefix.tokens

    def _is_full(self, layer: int) -> bool:
        return self.layout.layers[layer].kind is LayerKind.FULL

    def reserve(self, prefill_tokens: int, total_tokens: int) -> EmulatedSequence:
        if not 0 <= prefill_tokens < total_tokens:
            raise EngineError(f"a sequence of {total_tokens} tokens has no room to go on after {prefill_tokens} prefilled ones")
        if total_tokens > MAX_CONTEXT_TOKENS:
            raise EngineError(f"{total_tokens} tokens exceed the model's context of {MAX_CONTEXT_TOKENS}")
        return EmulatedSequence(self.layout, prefill_tokens, total_tokens)

    def sequence_bytes(self, total_tokens: int) -> int:
        return self.layout.total_bytes(total_tokens)

    def prefill_bytes(self, prefill_tokens: int) -> int:
        return self.layout.total_bytes(prefill_tokens)

    def free_bytes(self) -> int | None:
        return None

    def install(self, sequence: EmulatedSequence, piece: KVPiece) -> None:
        sequence.install(piece)

    def read(self, sequence: EmulatedSequence, piece: LayerRange) -> KVPiece:
        return sequence.read(piece)

    def sampler(self, sampling: Sampling, prompt: Sequence[int] = ()) -> Sampling:
        """Returns the settings themselves. Only `top_logprobs` matters: the next token is certain."""
        return sampling

    def decode(self, rows: Sequence[DecodeRow]) -> list[SampledToken]:
        if not rows:
            return []
        called_s = time.monotonic()
        _check_tokens([row.token_id for row in rows])
        states = [row.sequence.next_state(index, row.token_id) for index, row in enumerate(rows)]
        try:
            step_s = self.step_s(len(rows))
        except ProfileError as error:
            raise EngineError(str(error)) from error
        late_s = called_s - self._step_due_s
        if late_s < step_s:
            # Right after the last step: what the host did meanwhile is hidden, what it did beyond that is not.
            self._step_due_s += max(0.0, late_s - HIDDEN_SHARE * step_s) + step_s
        else:
            self._step_due_s = called_s + step_s
        time.sleep(max(0.0, self._step_due_s - time.monotonic()))
        masks = masks_of(rows)
        tokens = [_token(row, state, masks.get(index)) for index, (row, state) in enumerate(zip(rows, states, strict=True))]
        # Nothing below can fail: a step that raises has advanced no sequence.
        for row, state in zip(rows, states, strict=True):
            row.sequence.advance(state)
        return tokens


def _token(row: DecodeRow, state: int, mask: bytes | None) -> SampledToken:
    token_id = _ANSWER_BYTES[state % len(_ANSWER_BYTES)] if mask is None else _allowed(state, mask)
    logprobs = row.sampler.top_logprobs
    return SampledToken(token_id=token_id, logprob=None if logprobs is None else 0.0, top=((token_id, 0.0),) if logprobs else ())


def _allowed(state: int, mask: bytes) -> int:
    """Returns one of the tokens that a grammar allows. It prefers what ends a part of it: answers would grow without end."""
    ids = allowed_ids(mask, EOS_TOKEN_ID + 1)
    ends = [token_id for token_id in ids if token_id in _ENDS]
    letters = [token_id for token_id in ids if token_id in _LETTERS]
    choice = (ends if state % 3 == 0 else letters) or ends or letters or ids
    return choice[state // 3 % len(choice)]


def _sleep_until(due_s: float, cancelled: Callable[[], bool]) -> None:
    while True:
        if cancelled():
            raise PrefillCancelled
        left_s = due_s - time.monotonic()
        if left_s <= 0:
            return
        time.sleep(min(left_s, SLICE_S))


def _check_tokens(token_ids: Sequence[int]) -> None:
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) <= EOS_TOKEN_ID:
        raise EngineError(f"token ids are 0 to {EOS_TOKEN_ID}; there are some from {min(token_ids)} to {max(token_ids)}")


def _fingerprint(model: str, layout: KVLayout, chunk_tokens: int, token_scale: float) -> str:
    """Hash of what decides the bytes. The machine's profile and time scale change the pace only, and are left out."""
    parts = {"emulated": model, "layout": layout.identity(), "chunk_tokens": chunk_tokens, "token_scale": token_scale}
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(parts))
