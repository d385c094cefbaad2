"""Every engine keeps the contract; a new one gets a class here."""

import random

import pytest
import torch

from prfaas.engine.emulated import EmulatedConfig, EmulatedEngine
from prfaas.engine.emulated_model import EMULATED_MODELS
from prfaas.engine.torch_engine import TorchEngine
from prfaas.engine.weights import ModelFiles
from tests.engine.contract import EngineContract


class TestEmulatedEngine(EngineContract):
    @pytest.fixture(params=sorted(EMULATED_MODELS))
    def engine(self, request: pytest.FixtureRequest) -> EmulatedEngine:
        config = EmulatedConfig(time_scale=1e6, byte_scale=6000.0, token_scale=32.0)
        return EmulatedEngine(request.param, config, chunk_tokens=64)

    @pytest.fixture
    def prompt(self) -> list[int]:
        return random.Random(3).choices(range(256), k=175)


class TestTorchEngine(EngineContract):
    """Short chunks keep it quick; prompts that outgrow a sliding window are test_prefill's and test_prefix's."""

    @pytest.fixture(scope="class")
    def engine(self, files: ModelFiles) -> TorchEngine:
        return TorchEngine(files, dtype="float32", chunk_tokens=32, device=torch.device("cpu"))

    @pytest.fixture
    def prompt(self, text_ids: list[int]) -> list[int]:
        return text_ids[:80]
