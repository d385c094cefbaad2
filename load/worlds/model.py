"""A small model whose every answer is known: KV and tokens are functions of the prompt, and wrong KV gives wrong tokens."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import xxhash

from prfaas.contracts.terms import FinishReason
from prfaas.contracts.to_decode import Sampling
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange, LayerSpec
from prfaas_decode_worker.stop_strings import StopMatcher
from prfaas_decode_worker.text import TextDelta

MODEL = "world"
FINGERPRINT = "world-1"
LAYOUT = KVLayout(
    dtype="float16",
    layers=(
        LayerSpec(kind=LayerKind.FULL, kv_heads=1, head_dim=2),
        LayerSpec(kind=LayerKind.SLIDING, kv_heads=1, head_dim=1, window_tokens=4),
        LayerSpec(kind=LayerKind.RECURRENT, state_bytes=24),
    ),
)
CHUNK_TOKENS = 4
MAX_PAYLOAD_BYTES = 20
VOCABULARY_TOKENS = 24
EOS_TOKEN = 0
_LETTERS = "abc"


@lru_cache(maxsize=256)
def _states(prompt: tuple[int, ...]) -> tuple[bytes, ...]:
    """Hash of each prefix of the prompt, the empty one first."""
    states = [b"\x00" * 8]
    for token in prompt:
        states.append(xxhash.xxh3_64_digest(states[-1] + token.to_bytes(4, "little")))
    return tuple(states)


@lru_cache(maxsize=1024)
def _layer_bytes(prompt: tuple[int, ...], layer: int) -> tuple[bytes, bytes]:
    """Keys and values of all tokens of one layer; a state and nothing for a recurrent layer."""
    spec = LAYOUT.layers[layer]
    if spec.kind is LayerKind.RECURRENT:
        return (_states(prompt)[-1] * (spec.state_bytes // 8 + 1))[: spec.state_bytes], b""
    half = LAYOUT.token_bytes(layer) // 2
    tokens = [xxhash.xxh3_128_digest(state, seed=layer + 1) for state in _states(prompt)[1:]]
    return b"".join(each[:half] for each in tokens), b"".join(each[8 : 8 + half] for each in tokens)


def piece(prompt: tuple[int, ...], where: LayerRange) -> KVPiece:
    """KV that the prefill of `prompt` computes."""
    keys, values = _layer_bytes(prompt, where.layer)
    if LAYOUT.layers[where.layer].kind is LayerKind.RECURRENT:
        return KVPiece(where, memoryview(keys), memoryview(values))
    half = LAYOUT.token_bytes(where.layer) // 2
    within = slice(where.start * half, where.end * half)
    return KVPiece(where, memoryview(keys)[within], memoryview(values)[within])


def pieces(prompt: tuple[int, ...], from_token: int) -> Iterator[tuple[int, list[KVPiece]]]:
    """(tokens of the chunk, its pieces) in the order in which an engine computes them."""
    for start in range(0, len(prompt), CHUNK_TOKENS):
        end = min(start + CHUNK_TOKENS, len(prompt))
        yield end - start, [piece(prompt, where) for where in LAYOUT.chunk_ranges(start, end, len(prompt), from_token)]


class KVSequence:
    """KV of one request in a decode worker, and the state that its steps move."""

    def __init__(self, prefill_tokens: int) -> None:
        self._prefill_tokens = prefill_tokens
        self._layers: list[tuple[bytearray, bytearray]] = []
        for layer, spec in enumerate(LAYOUT.layers):
            size = spec.state_bytes if spec.kind is LayerKind.RECURRENT else prefill_tokens * (LAYOUT.token_bytes(layer) // 2)
            values = 0 if spec.kind is LayerKind.RECURRENT else size
            self._layers.append((bytearray(size), bytearray(values)))
        self._state = 0

    def install(self, part: KVPiece) -> None:
        layer, start, end = part.range
        keys, values = self._layers[layer]
        if LAYOUT.layers[layer].kind is LayerKind.RECURRENT:
            keys[:] = part.keys
            return
        half = LAYOUT.token_bytes(layer) // 2
        keys[start * half : end * half] = part.keys
        values[start * half : end * half] = part.values

    def read(self, where: LayerRange) -> KVPiece:
        """Copy of a range of a layer that is not recurrent."""
        half = LAYOUT.token_bytes(where.layer) // 2
        within = slice(where.start * half, where.end * half)
        keys, values = self._layers[where.layer]
        return KVPiece(where, memoryview(bytes(keys[within])), memoryview(bytes(values[within])))

    def step(self, token_id: int, draws: int, *, forbid_eos: bool) -> int:
        """Feeds a token and samples the next one. `draws` is the number of earlier draws of the request's random state."""
        if not self._state:
            self._state = self._digest() | 1
        self._state = xxhash.xxh3_64_intdigest(self._state.to_bytes(8, "little") + token_id.to_bytes(4, "little")) | 1
        token = (self._state // 2 + 7 * draws) % VOCABULARY_TOKENS
        return 1 if forbid_eos and token == EOS_TOKEN else token

    def _digest(self) -> int:
        """Value of all that decoding can see: what a window does not need is left out."""
        digest = xxhash.xxh3_64()
        for layer, (keys, values) in enumerate(self._layers):
            start = LAYOUT.needed(layer, self._prefill_tokens).start * (LAYOUT.token_bytes(layer) // 2)
            digest.update(bytes(keys[start:]) + bytes(values[start:]))
        return int(digest.intdigest())


class WorldText:
    """Text of one answer: a letter per token, cut before the first stop string by the real matcher."""

    def __init__(self, sampling: Sampling) -> None:
        self._matcher = StopMatcher(sampling.stop)
        self._min_tokens = sampling.min_tokens
        self._tokens = 0

    def push(self, token_id: int) -> TextDelta:
        self._tokens += 1
        return TextDelta(*self._matcher.push(letter(token_id), counts=self._tokens > self._min_tokens))

    def flush(self) -> TextDelta:
        return TextDelta(self._matcher.flush(), False)

    @property
    def stop(self) -> str:
        return self._matcher.met

    def offset_chars(self, token_id: int) -> int:
        return self._tokens


class WorldVocabulary:
    """Texts of the model's tokens."""

    def new_text(self, sampling: Sampling) -> WorldText:
        return WorldText(sampling)

    def token_bytes(self, token_id: int) -> bytes:
        return letter(token_id).encode()


def letter(token_id: int) -> str:
    return _LETTERS[token_id % len(_LETTERS)]


class Answer(NamedTuple):
    """Answer that a client gets where nothing fails."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason


def faultless(prompt: Sequence[int], sampling: Sampling) -> Answer:
    """Answer by the plain definition: steps one after another, no transfer, no worker."""
    prefix = tuple(prompt[:-1])
    sequence = KVSequence(len(prefix))
    for _, chunk in pieces(prefix, 0):
        for part in chunk:
            sequence.install(part)
    tokens: list[int] = []
    fed = prompt[-1]
    while True:
        fed = sequence.step(fed, len(tokens), forbid_eos=len(tokens) < sampling.min_tokens)
        if fed == EOS_TOKEN and not sampling.ignore_eos and len(tokens) + 1 > sampling.min_tokens:
            return Answer(tuple(tokens), "".join(map(letter, tokens)), FinishReason.STOP)
        tokens.append(fed)
        text = "".join(map(letter, tokens))
        ends = [stop for stop in sampling.stop if text.endswith(stop)] if len(tokens) > sampling.min_tokens else []
        if ends:
            return Answer(tuple(tokens), text[: -max(map(len, ends))], FinishReason.STOP)
        if len(tokens) == sampling.max_tokens:
            return Answer(tuple(tokens), text, FinishReason.LENGTH)
