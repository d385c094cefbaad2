"""Configuration of an engine, and the fingerprint that decides who may continue whose KV."""

from typing import TYPE_CHECKING

import msgspec
import pytest

from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.engine.fingerprint import fingerprint_of
from prfaas.engine.model_directory import WeightsError
from prfaas.engine.protocol import EngineError

if TYPE_CHECKING:
    from prfaas.engine.torch_engine import TorchEngine


def test_unknown_keys_and_values_are_named() -> None:
    with pytest.raises(msgspec.ValidationError, match="chunk-token"):
        msgspec.convert({"chunk-token": 5}, EngineConfig)
    with pytest.raises(msgspec.ValidationError, match="int8"):
        msgspec.convert({"dtype": "int8"}, EngineConfig)
    with pytest.raises(msgspec.ValidationError, match="chunk-tokens is 0; it must be at least 1"):
        msgspec.convert({"chunk-tokens": 0}, EngineConfig)


def test_a_model_or_device_that_cannot_be_used_is_named() -> None:
    with pytest.raises(WeightsError, match="'gpt-5' is unknown"):
        build_engine(EngineConfig(model="gpt-5", device="cpu"))
    with pytest.raises(EngineError, match="the device 'warp-drive' cannot be used here"):
        build_engine(EngineConfig(device="warp-drive"))


def test_the_engine_describes_itself(bf16_engine: "TorchEngine", fp32_engine: "TorchEngine") -> None:
    description = bf16_engine.describe()
    bytes_per_token, fixed_tokens = {"gemma-3-270m": (3072, 511), "smollm2-135m": (23040, 0)}[description.model]
    layout = description.layout
    sliding_token_bytes = layout.total_bytes(1) - bytes_per_token
    assert layout.total_bytes(4000) == 4000 * bytes_per_token + fixed_tokens * sliding_token_bytes
    assert fp32_engine.describe().layout.total_bytes(4000) == 2 * layout.total_bytes(4000)
    assert fp32_engine.describe().fingerprint != description.fingerprint


def test_whatever_decides_the_bits_changes_the_fingerprint(bf16_engine: "TorchEngine", fp32_engine: "TorchEngine") -> None:
    layout = bf16_engine.describe().layout
    same = [fingerprint_of("model", "weights", "config", layout, 512) for _ in range(2)]
    other = [
        fingerprint_of("another", "weights", "config", layout, 512),
        fingerprint_of("model", "others", "config", layout, 512),
        fingerprint_of("model", "weights", "other", layout, 512),
        fingerprint_of("model", "weights", "config", fp32_engine.describe().layout, 512),
        fingerprint_of("model", "weights", "config", layout, 256),
    ]
    assert same[0] == same[1]
    assert len({same[0], *other}) == 6
