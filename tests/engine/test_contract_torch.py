"""The torch engine keeps the contract of engines, on real models.

Short chunks keep it quick; prompts that outgrow a sliding window are test_prefill's and test_prefix's.
"""

from collections.abc import Iterator

import pytest
import torch

from prfaas.engine.model_directory import ModelFiles
from prfaas.engine.torch_engine import TorchEngine
from tests.engine.contract import EngineContract


@pytest.fixture(scope="module")
def short_chunks(files: ModelFiles) -> Iterator[TorchEngine]:
    yield TorchEngine(files, dtype="float32", chunk_tokens=32, device=torch.device("cpu"))


class TestTorchEngine(EngineContract):
    @pytest.fixture
    def engine(self, short_chunks: TorchEngine) -> TorchEngine:
        return short_chunks

    @pytest.fixture
    def prompt(self, text_ids: list[int]) -> list[int]:
        return text_ids[:80]
