"""Self-tests that models have passed on this machine, remembered in the cache: each is made once."""

import contextlib
import importlib.metadata
import platform
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
import xxhash

from prfaas.engine.fingerprint import kernel_versions
from prfaas.engine.torch_engine import TorchEngine
from prfaas.engine.weights import cache_root


def ensure_tested(engine: TorchEngine, config_xxh3_128: str, test: Callable[[TorchEngine], float]) -> None:
    """Makes the test unless one like it was passed. Raises what it raises; a cache that cannot be written to is no error."""
    passed = cache_root() / "self-tests" / f"{_identity(engine, config_xxh3_128)}.json"
    if passed.exists():
        return
    difference = test(engine)
    with contextlib.suppress(OSError):
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.write_bytes(msgspec.json.encode({"model": engine.describe().model, "difference": difference}))


def _identity(engine: TorchEngine, config_xxh3_128: str) -> str:
    """Hashes what the test's outcome depends on: weights, configuration, dtype, libraries, processor, the engine's code."""
    on_cpu = engine.device.type == "cpu"
    parts = [
        engine.weights_xxh3_128,
        config_xxh3_128,
        engine.layout.dtype,
        *(importlib.metadata.version(name) for name in ("torch", "transformers")),
        kernel_versions(),
        engine.device.type,
        platform.machine() if on_cpu else torch.cuda.get_device_name(engine.device),
        torch.backends.cpu.get_cpu_capability() if on_cpu else "",
        *(xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in sorted(Path(__file__).parent.glob("*.py"))),
    ]
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(parts))
