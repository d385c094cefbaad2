import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.transfer.codec import CodecChooser, decode_planes, encode_planes
from prfaas.transfer.frame import Codec, FrameError


def gaussian_bf16(count: int) -> memoryview:
    """Bytes that look like KV to a codec."""
    values = np.random.default_rng(0).standard_normal(count).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).data


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=3), st.sampled_from([2, 4]))
def test_planes_give_back_the_same_bytes(parts: list[bytes], element_bytes: int) -> None:
    whole = [part[: len(part) // element_bytes * element_bytes] for part in parts]
    if not any(whole):
        return
    data = b"".join(whole)
    encoded = encode_planes([memoryview(part) for part in whole], element_bytes)
    assert bytes(decode_planes(memoryview(encoded), len(data), element_bytes)) == data


@given(st.data())
def test_damaged_planes_never_decode_to_another_size(data: st.DataObject) -> None:
    raw = gaussian_bf16(64)
    encoded = bytearray(encode_planes([raw], 2))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    encoded = encoded[: data.draw(st.integers(0, len(encoded)))]
    try:
        decoded = decode_planes(memoryview(encoded), len(raw), 2)
    except FrameError:
        return
    assert len(decoded) == len(raw)


def test_a_claimed_size_bounds_what_is_decompressed() -> None:
    bomb = encode_planes([memoryview(bytes(10 << 20))], 2)
    with pytest.raises(FrameError):
        decode_planes(memoryview(bomb), 1000, 2)


def test_kv_shrinks_to_about_two_thirds() -> None:
    raw = gaussian_bf16(100_000)
    assert 0.6 < len(encode_planes([raw], 2)) / len(raw) < 0.75


def test_the_choice_follows_the_link() -> None:
    chooser = CodecChooser([Codec.PLANES])
    for _ in range(50):
        chooser.encoded(Codec.PLANES, 1000, 690, 1000 / 400e6)
    assert chooser.choose(None) is Codec.RAW
    assert chooser.choose(12e6) is Codec.PLANES
    assert chooser.choose(1e9) is Codec.RAW
    break_even = (0.9 - 0.69) * 400e6
    assert chooser.choose(0.95 * break_even) is Codec.PLANES
    assert chooser.choose(1.05 * break_even) is Codec.RAW


def test_data_that_does_not_shrink_is_soon_sent_as_it_is_but_tried_now_and_then() -> None:
    chooser = CodecChooser([Codec.PLANES])
    choices = []
    for _ in range(300):
        choices.append(chooser.choose(12e6))
        if choices[-1] is Codec.PLANES:
            chooser.encoded(Codec.PLANES, 1000, 1004, 1000 / 400e6)
    assert choices[0] is Codec.PLANES
    assert 0 < choices[100:].count(Codec.PLANES) < 10


def test_eight_bits_must_save_a_tenth_more_than_the_lossless_codec() -> None:
    chooser = CodecChooser([Codec.INT8, Codec.PLANES])
    for _ in range(50):
        chooser.encoded(Codec.PLANES, 1000, 690, 1000 / 400e6)
        chooser.encoded(Codec.INT8, 1000, 515, 1000 / 1500e6)
    assert chooser.choose(None) is Codec.RAW
    assert chooser.choose(12e6) is Codec.INT8
    assert chooser.choose(400e6) is Codec.INT8, "it is the faster one too"
    assert chooser.choose(2e9) is Codec.RAW
    for _ in range(50):
        chooser.encoded(Codec.PLANES, 1000, 550, 1000 / 400e6)
    assert chooser.choose(12e6) is Codec.PLANES


def test_without_permission_there_are_never_eight_bits() -> None:
    chooser = CodecChooser([Codec.PLANES])
    assert Codec.INT8 not in {chooser.choose(goodput) for goodput in (1e3, 1e6, 12e6, 1e9) for _ in range(100)}
