import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.transfer.frame import FrameError
from prfaas.transfer.quantize import decode_int8, encode_int8

HEAD_DIM = 16
NUMBERS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=HEAD_DIM, max_size=HEAD_DIM)
DTYPES = st.sampled_from(["bfloat16", "float16", "float32"])


def as_dtype(numbers: npt.NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "bfloat16":
        return (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    limit = float(np.finfo(dtype).max)
    return numbers.clip(-limit, limit).astype(dtype).tobytes()


def as_numbers(data: bytes | memoryview, dtype: str) -> npt.NDArray[np.float64]:
    if dtype == "bfloat16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(data, dtype).astype(np.float64)


@given(st.lists(NUMBERS, min_size=1, max_size=6), DTYPES)
def test_no_number_moves_by_more_than_half_a_step_of_its_vector(vectors: list[list[float]], dtype: str) -> None:
    raw = as_dtype(np.array(vectors, np.float32), dtype)
    cut = len(raw) // len(vectors) * (len(vectors) // 2)
    encoded = encode_int8([memoryview(raw)[:cut], memoryview(raw)[cut:]], dtype, HEAD_DIM)
    assert encoded is not None
    decoded = decode_int8(memoryview(encoded), len(raw), dtype, HEAD_DIM)
    assert len(decoded) == len(raw)
    before, after = (as_numbers(data, dtype).reshape(-1, HEAD_DIM) for data in (raw, decoded))
    largest = np.abs(before).max(axis=1, keepdims=True)
    precision = {"bfloat16": 2**-8, "float16": 2**-11, "float32": 2**-23}[dtype]
    smallest = 127 * float(np.finfo(np.float32).tiny) + float(np.finfo(np.float16).smallest_subnormal) * (dtype == "float16")
    assert (np.abs(after - before) <= largest * (0.5 / 127 * 1.001 + precision) + smallest).all()


def test_the_bytes_are_these_on_every_machine() -> None:
    """Worked by hand: scales 1 and 2, steps -127..127; 3 x 1.0078125 needs rounding, and the tie goes to even."""
    scales = np.array([1.0, 2.0, 1.0078125], np.float32)
    steps = np.array([[1, -127], [127, 0], [3, 1]], np.int8)
    decoded = decode_int8(memoryview(scales.tobytes() + steps.tobytes()), 12, "bfloat16", 2)
    expected = [0x3F80, 0xC2FE, 0x437E, 0x0000, 0x4042, 0x3F81]  # 3.0234375 lies between 3.015625 and 3.03125
    assert list(np.frombuffer(decoded, np.uint16)) == expected


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_not_encoded(bad: float) -> None:
    numbers = np.ones(2 * HEAD_DIM, np.float32)
    numbers[3] = bad
    for dtype in ("bfloat16", "float32"):
        raw = (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes() if dtype == "bfloat16" else numbers.tobytes()
        assert encode_int8([memoryview(raw)], dtype, HEAD_DIM) is None


@given(st.data(), DTYPES)
def test_damaged_bytes_never_decode_to_another_size_nor_to_what_is_not_finite(data: st.DataObject, dtype: str) -> None:
    raw = as_dtype(np.random.default_rng(0).standard_normal(4 * HEAD_DIM).astype(np.float32), dtype)
    encoded = bytearray(encode_int8([memoryview(raw)], dtype, HEAD_DIM) or b"")
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    encoded = encoded[: data.draw(st.integers(0, len(encoded)))]
    try:
        decoded = decode_int8(memoryview(encoded), len(raw), dtype, HEAD_DIM)
    except FrameError:
        return
    assert len(decoded) == len(raw)
    assert np.isfinite(as_numbers(decoded, dtype)).all()
