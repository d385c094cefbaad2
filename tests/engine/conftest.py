"""Real weights from the local cache: the first run on a machine converts them, which takes about two minutes."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer

from prfaas.engine.model_directory import ModelFiles
from prfaas.engine.weights import prepare

if TYPE_CHECKING:  # importing transformers takes seconds, which the tests without a real model do not have
    import torch

    from prfaas.engine.torch_engine import TorchEngine

CHUNK_TOKENS = 512


@pytest.fixture(scope="session", params=["gemma-3-270m", "smollm2-135m"])
def files(request: pytest.FixtureRequest) -> ModelFiles:
    import torch

    torch.set_num_threads(1)
    return prepare(request.param)


@pytest.fixture(scope="session")
def text_ids(files: ModelFiles) -> list[int]:
    """Real text, longer than any prompt here: random tokens give flat logits, and near ties flip on rounding."""
    text = Path(argparse.__file__).read_text()
    return list(Tokenizer.from_file(str(files.tokenizer)).encode(text).ids)


@pytest.fixture(scope="session")
def bf16_engine(files: ModelFiles) -> "Iterator[TorchEngine]":
    yield torch_engine(files, "bfloat16")


@pytest.fixture(scope="session")
def fp32_engine(files: ModelFiles) -> "Iterator[TorchEngine]":
    yield torch_engine(files, "float32")


def torch_engine(files: ModelFiles, dtype: str) -> "TorchEngine":
    import torch

    from prfaas.engine.torch_engine import TorchEngine

    return TorchEngine(files, dtype=dtype, chunk_tokens=CHUNK_TOKENS, device=torch.device("cpu"))


def plain_model(files: ModelFiles, dtype: "torch.dtype") -> Any:
    """transformers as it is, for comparison."""
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        files.directory, dtype=dtype, attn_implementation="sdpa", local_files_only=True
    )


@pytest.fixture(scope="session")
def plain_fp32(files: ModelFiles) -> Iterator[Any]:
    import torch

    yield plain_model(files, torch.float32)
