"""The emulated engine keeps the contract of engines."""

import random

import pytest

from prfaas.engine.emulated import EmulatedConfig, EmulatedEngine
from prfaas.engine.emulated_model import EMULATED_MODELS
from tests.engine.contract import EngineContract


class TestEmulatedEngine(EngineContract):
    @pytest.fixture(params=sorted(EMULATED_MODELS))
    def engine(self, request: pytest.FixtureRequest) -> EmulatedEngine:
        config = EmulatedConfig(time_scale=1e6, byte_scale=6000.0, token_scale=32.0)
        return EmulatedEngine(request.param, config, chunk_tokens=64)

    @pytest.fixture
    def prompt(self) -> list[int]:
        return random.Random(3).choices(range(256), k=175)
