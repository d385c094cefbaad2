"""The lossless codec of a frame's payload, and the choice of codec for a link.

PLANES compresses the top byte (sign and exponent) of every element with zstd, which takes bf16 KV to about 69 %. The mantissa
bytes are noise and stay as they are: measured on real KV, two compressed planes gain half a percent and cost twice the decoding
time.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zstandard

from prfaas.transfer.frame import Codec, FrameError

_LEVEL = 1
_SMOOTHING = 0.2
_WORTH = 0.9
_TRY_AGAIN_FRAMES = 64
"""Frames per encoded one while no codec pays: what a codec would give is measured, not remembered."""
_LENGTH_BYTES = 4
_EXPECTED = {Codec.PLANES: (400e6, 0.7), Codec.INT8: (800e6, 0.53)}
"""Encoding bytes/s and stored / raw, until frames have been measured."""

_local = threading.local()


def encode_planes(parts: Sequence[memoryview], element_bytes: int) -> bytes:
    """[length of the compressed plane, compressed top bytes, other bytes] of the parts' elements, little-endian."""
    elements = [np.frombuffer(part, np.uint8).reshape(-1, element_bytes) for part in parts if len(part)]
    top = np.concatenate([part[:, -1] for part in elements])
    rest = np.concatenate([part[:, :-1].reshape(-1) for part in elements])
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False)
    compressed: bytes = _local.compressor.compress(top)
    return b"".join((len(compressed).to_bytes(_LENGTH_BYTES, "little"), compressed, rest.data))


def decode_planes(payload: memoryview, raw_bytes: int, element_bytes: int) -> memoryview:
    """Raises FrameError when the payload is not what encode_planes makes of `raw_bytes` bytes."""
    count = raw_bytes // element_bytes
    length = int.from_bytes(payload[:_LENGTH_BYTES], "little")
    compressed, rest = payload[_LENGTH_BYTES : _LENGTH_BYTES + length], payload[_LENGTH_BYTES + length :]
    if len(compressed) != length or len(rest) != count * (element_bytes - 1) or raw_bytes % element_bytes:
        raise FrameError(f"{len(payload)} bytes of planes do not decode to {raw_bytes}")
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    try:
        top = _local.decompressor.decompress(compressed, max_output_size=count)
    except zstandard.ZstdError as error:
        raise FrameError(f"a plane does not decompress: {error}") from error
    if len(top) != count:
        raise FrameError(f"a plane has {len(top)} bytes, expected {count}")
    raw = np.empty((count, element_bytes), np.uint8)
    raw[:, -1] = np.frombuffer(top, np.uint8)
    raw[:, :-1] = np.frombuffer(rest, np.uint8).reshape(count, element_bytes - 1)
    return raw.reshape(-1).data


@dataclass(slots=True)
class _Measure:
    bytes_per_s: float
    ratio: float


class CodecChooser:
    """Chooses the codec with the least time per byte: 1 / encoding rate + ratio / goodput. Each must save a tenth of the time of
    the one before it, which changes less. Rate and ratio are measured on the frames themselves."""

    def __init__(self, codecs: Sequence[Codec]) -> None:
        """`codecs` may be chosen beside RAW."""
        self._measures = {codec: _Measure(*_EXPECTED[codec]) for codec in sorted(codecs)}
        self._raw_in_a_row = 0
        self._trials = 0

    def choose(self, goodput_bytes_per_s: float | None) -> Codec:
        """`goodput_bytes_per_s`: None when the link has not been the bottleneck yet; then nothing is to be gained."""
        if goodput_bytes_per_s is None or goodput_bytes_per_s <= 0:
            return Codec.RAW
        best, best_s = Codec.RAW, 1 / goodput_bytes_per_s
        for codec, measure in self._measures.items():
            time_s = 1 / measure.bytes_per_s + measure.ratio / goodput_bytes_per_s
            if time_s < _WORTH * best_s:
                best, best_s = codec, time_s
        self._raw_in_a_row = self._raw_in_a_row + 1 if best is Codec.RAW else 0
        # On a link faster than the codec itself no ratio makes it pay.
        possible = [codec for codec, measure in self._measures.items() if goodput_bytes_per_s < measure.bytes_per_s]
        if self._raw_in_a_row >= _TRY_AGAIN_FRAMES and possible:
            self._raw_in_a_row = 0
            self._trials += 1
            return possible[self._trials % len(possible)]
        return best

    def encoded(self, codec: Codec, raw_bytes: int, stored_bytes: int, seconds: float) -> None:
        """Takes the measure of one encoded frame; `seconds` is what encoding took."""
        measure = self._measures[codec]
        rate = raw_bytes / max(seconds, 1e-9)
        measure.bytes_per_s += _SMOOTHING * (rate - measure.bytes_per_s)
        measure.ratio += _SMOOTHING * (stored_bytes / raw_bytes - measure.ratio)
