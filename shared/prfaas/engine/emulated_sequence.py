"""KV of one request that the emulated engine decodes, and the hash that its answer follows from."""

import xxhash

from prfaas.engine.protocol import EngineError
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange


class EmulatedSequence:
    """Bytes that were installed, per layer, and the hash of them and of the tokens so far."""

    def __init__(self, layout: KVLayout, prefill_tokens: int, total_tokens: int) -> None:
        self.layout = layout
        self.tokens = prefill_tokens
        self.total_tokens = total_tokens
        self._needed = [layout.needed(layer, prefill_tokens) for layer in range(len(layout.layers))]
        self._installed = [needed.start for needed in self._needed]
        self._keys: list[bytearray] = []
        self._values: list[bytearray] = []
        for needed in self._needed:
            key_bytes, size_bytes = (layout.key_bytes(needed), layout.range_bytes(needed)) if prefill_tokens else (0, 0)
            self._keys.append(bytearray(key_bytes))
            self._values.append(bytearray(size_bytes - key_bytes))
        self._state: int | None = None

    def install(self, piece: KVPiece) -> None:
        """Takes a layer's pieces in token order without gaps. A piece from the layer's first token on starts it again.

        Raises EngineError for a piece that does not fit."""
        layer, start, end = piece.range
        if not 0 <= layer < len(self._needed):
            raise EngineError(f"layer {layer} does not exist; the model has layers 0 to {len(self._needed) - 1}")
        needed = self._needed[layer]
        if self._state is not None:
            raise EngineError(f"KV of layer {layer} came for a sequence that is being decoded")
        if start not in (needed.start, self._installed[layer]) or not start < end <= needed.end:
            raise EngineError(
                f"KV of layer {layer} came for tokens {start} to {end}; "
                f"expected is a range from {self._installed[layer]}, up to {needed.end}"
            )
        key_bytes = self.layout.key_bytes(piece.range)
        value_bytes = self.layout.range_bytes(piece.range) - key_bytes
        recurrent = self.layout.layers[layer].kind is LayerKind.RECURRENT
        if (len(piece.keys), len(piece.values)) != (key_bytes, value_bytes):
            raise EngineError(
                f"KV of layer {layer}, tokens {start} to {end}, has {len(piece.keys)} and {len(piece.values)} bytes; "
                f"expected are {key_bytes} of {'a state' if recurrent else 'keys'} and {value_bytes} of values"
            )
        if recurrent:
            if end != needed.end:
                raise EngineError(f"the state of layer {layer} came for {end} tokens; needed is that after {needed.end}")
            self._keys[layer][:] = piece.keys
        else:
            for store, part in ((self._keys[layer], piece.keys), (self._values[layer], piece.values)):
                row_bytes = len(part) // (end - start)
                store[(start - needed.start) * row_bytes : (end - needed.start) * row_bytes] = part
        self._installed[layer] = end

    def read(self, piece: LayerRange) -> KVPiece:
        """Returns a copy of installed tokens of a full layer."""
        layer, start, end = piece
        assert self.layout.layers[layer].kind is LayerKind.FULL and end <= self._installed[layer]
        whole = KVPiece(self._needed[layer], memoryview(self._keys[layer]), memoryview(self._values[layer]))
        part = whole.part(start, end)
        return KVPiece(piece, memoryview(bytearray(part.keys)), memoryview(bytearray(part.values)))

    def next_state(self, row: int, token_id: int) -> int:
        """Returns the hash with one more token, which `advance` makes the sequence's own. Raises EngineError."""
        missing = [needed.layer for needed, end in zip(self._needed, self._installed, strict=True) if end != needed.end]
        if missing:
            raise EngineError(f"row {row} cannot be decoded: the KV of its layers {missing} is not installed")
        if self.tokens >= self.total_tokens:
            raise EngineError(f"row {row} is full: it has all {self.total_tokens} tokens that were reserved")
        if self._state is None:
            digest = xxhash.xxh3_64()
            for keys, values in zip(self._keys, self._values, strict=True):
                digest.update(keys)
                digest.update(values)
            self._state = digest.intdigest()
        return int(xxhash.xxh3_64_intdigest(token_id.to_bytes(4, "little"), seed=self._state))

    def advance(self, state: int) -> None:
        self._state = state
        self.tokens += 1
