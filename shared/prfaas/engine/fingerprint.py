"""Fingerprint: what two engines must have in common for one to continue the other's KV."""

import importlib.metadata
from typing import Any

import msgspec
import xxhash

from prfaas.kvcache.layout import KVLayout, LayerKind

COMPUTATION = 2
"""Version of our own computation. Raise it with every change that changes the last bits of the KV."""

_KERNELS = ("causal-conv1d", "flash-linear-attention", "mamba-ssm")


def fingerprint_of(model: str, weights_xxh3_128: str, config_xxh3_128: str, layout: KVLayout, chunk_tokens: int) -> str:
    """Hashes all that decides the bits of the KV, but for the hardware.

    chunk_tokens: other chunk boundaries sum in another order, and the last bits differ. torch, transformers: another release
    may compute the same layer by other kernels. Hardware is left out on purpose, since one site's accelerators may differ from
    the other's: between unlike processors KV is interchangeable, but only equal up to rounding."""
    parts: dict[str, Any] = {
        "model": model,
        "weights": weights_xxh3_128,
        "config": config_xxh3_128,
        "layout": layout.identity(),
        "chunk_tokens": chunk_tokens,
        "computation": COMPUTATION,
        "torch": importlib.metadata.version("torch").partition("+")[0],
        "transformers": importlib.metadata.version("transformers"),
    }
    if any(spec.kind is LayerKind.RECURRENT for spec in layout.layers):
        parts["kernels"] = kernel_versions()
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(parts))


def kernel_versions() -> dict[str, str]:
    """Returns the versions of the packages that are installed of those that transformers computes recurrent layers with, instead
    of with torch alone."""
    found = {}
    for name in _KERNELS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
