"""Configuration of an engine, and the engine that is built from it."""

from typing import Literal

import msgspec

from prfaas.engine.emulated import EmulatedConfig, EmulatedEngine
from prfaas.engine.model_reference import model_name
from prfaas.engine.protocol import Engine, EngineError
from prfaas.engine.weights import INSTALL_TORCH, prepare


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    engine: Literal["torch", "emulated"] = "torch"
    model: str = "gemma-3-270m"
    """A shipped model's name, a directory in Hugging Face's format, or a repository of a hub such as `organization/model`."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Numbers of weights and KV. `auto` takes those of the weights. All workers of a model need the same."""
    chunk_tokens: int = 512
    """Tokens per prefill chunk. Part of the fingerprint: all workers of a model need the same."""
    threads: int = 1
    """CPU threads of the whole process. Two spinning pools on the same cores are 5 to 10 times slower than one."""
    device: str = "auto"
    """Torch device such as `cpu` or `cuda:1`. `auto` is the first GPU where there is one, else the CPU."""
    lossy_kv: bool = False
    """Permission for this model's KV to cross slow links in 8 bits. Answers then depend a little on where the prefill ran. A
    prefill worker sends such KV, and a decode worker installs it, only where this is set."""
    emulated: EmulatedConfig = EmulatedConfig()
    """Settings of the engine `emulated`, which reads `model` and `chunk-tokens` beside them."""

    def __post_init__(self) -> None:
        for name, value in (("chunk-tokens", self.chunk_tokens), ("threads", self.threads)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        model_name(self.model)

    @property
    def model_name(self) -> str:
        """Name by which services know the model."""
        return model_name(self.model)


def build_engine(config: EngineConfig) -> Engine:
    """Prepares the weights if need be, loads them, and tests what was loaded. Raises WeightsError, EngineError."""
    if config.engine == "emulated":
        return EmulatedEngine(config.model, config.emulated, chunk_tokens=config.chunk_tokens)
    # Here and not above: a process that only reads the configuration need not load torch, nor have it.
    try:
        import torch

        from prfaas.engine.passed_tests import ensure_tested
        from prfaas.engine.self_test import self_test
        from prfaas.engine.torch_engine import TorchEngine
    except ModuleNotFoundError as error:
        raise EngineError(f"the engine `torch` needs {error.name}: {INSTALL_TORCH}") from error

    torch.set_num_threads(config.threads)
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EngineError(f"the device {name!r} cannot be used here: {error}") from error
    files = prepare(config.model)
    engine = TorchEngine(files, dtype=config.dtype, chunk_tokens=config.chunk_tokens, device=device)
    ensure_tested(engine, files.config_xxh3_128, self_test)
    return engine
