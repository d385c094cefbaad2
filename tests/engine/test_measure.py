"""Measurements show the engine's own times: the emulated engine keeps those of a known profile."""

import pytest

from prfaas.capacity.profiles import DecodePoint, PrefillPoint
from prfaas.engine.emulated import EmulatedConfig, EmulatedEngine
from prfaas.engine.measure import measure_profile
from prfaas.engine.protocol import EngineError


@pytest.fixture
def engine() -> EmulatedEngine:
    return EmulatedEngine("emulated-1t", EmulatedConfig(time_scale=10.0, byte_scale=100.0), chunk_tokens=512)


def test_the_points_are_those_of_the_engine(engine: EmulatedEngine) -> None:
    heard: list[PrefillPoint | DecodePoint] = []
    profile = measure_profile(
        engine, name="me", source="here", lengths=[2048, 256, 256], batches=[4, 1], context_tokens=64, measured=heard.append
    )
    assert [point.tokens for point in profile.prefill] == [256, 2048]
    assert [point.batch for point in profile.decode] == [1, 4]
    # Raw points are heard: one that other work made slower than a larger one is lowered in the profile.
    assert [type(point) for point in heard] == [PrefillPoint, PrefillPoint, DecodePoint, DecodePoint]
    times_s = [point.prefill_s if isinstance(point, PrefillPoint) else point.step_s for point in heard]
    profile_s = [*(point.prefill_s for point in profile.prefill), *(point.step_s for point in profile.decode)]
    assert all(kept_s <= heard_s for kept_s, heard_s in zip(profile_s, times_s, strict=True))
    assert set(profile_s) <= set(times_s)
    for point in profile.prefill:
        assert point.prefill_s >= engine.prefill_s(point.tokens), "it sleeps at least that long"
        assert point.kv_bytes == engine.layout.total_bytes(point.tokens)
    assert profile.prefill[0].prefill_s <= profile.prefill[1].prefill_s
    assert all(step.step_s >= engine.step_s(step.batch) * 0.7 for step in profile.decode)


def test_a_machine_that_only_prefills_has_no_decode_points(engine: EmulatedEngine) -> None:
    profile = measure_profile(engine, name="me", source="here", lengths=[16, 32], batches=[], context_tokens=16)
    assert profile.decode == ()


def test_a_length_beyond_the_models_context_is_refused(engine: EmulatedEngine) -> None:
    with pytest.raises(EngineError, match="exceeds the model's context"):
        measure_profile(engine, name="me", source="here", lengths=[16, 1 << 20], batches=[], context_tokens=16)
