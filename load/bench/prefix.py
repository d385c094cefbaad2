"""Cost and gain of prefix caches: prefills that keep their blocks, and ones that begin after a cached prefix.

Times are CPU seconds of the engine's thread, of variants in turns: other work on the machine moves them less than wall time.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from load.json_option import add_json_option, write_json
from load.machine import Conditions, conditions
from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.engine.protocol import Engine
from prfaas.engine.weights import SOURCES
from prfaas.kvcache.layout import KVPiece
from prfaas.kvcache.prefix_cache import PrefixCache
from prfaas.process import interruption
from prfaas.worker.disk_tier.tier import DiskTier

CAPACITY_BYTES = 1 << 30
DEADLINE_S = 60.0
"""Longest wait for files to be written."""


def prefill(engine: Engine, token_ids: Sequence[int], cache: PrefixCache | None, from_token: int = 0) -> tuple[float, int]:
    """CPU seconds, and the bytes that a transfer would carry."""
    pieces: list[KVPiece] = []
    started_s = time.thread_time()
    if cache is None:
        engine.prefill(token_ids, pieces.append, lambda: False)
    else:
        with cache.pin(token_ids) as prefix:
            engine.prefill(token_ids, pieces.append, lambda: False, prefix=prefix, from_token=from_token)
    return time.thread_time() - started_s, sum(piece.size_bytes for piece in pieces)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one model: medians over the rounds; ratios compare runs of the same round."""

    model: str
    prompt_tokens: int
    shared_tokens: int
    plain_cpu_s: float
    keeping_ratio: float
    """A prefill that keeps its blocks, to one without a cache."""
    cached_ratio: float
    """One that begins after the shared prefix, to one without a cache."""
    disk_ratio: float
    """One that begins after the shared prefix, which a worker before had written to disk, to one without a cache. The file
    system may have the files in memory."""
    disk_read_bytes_per_s: float
    whole_bytes: int
    rest_bytes: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    conditions: Conditions
    models: list[Found]
    """Shipped where the decode worker has the prefix too."""


def from_disk(engine: Engine, first: Sequence[int], second: Sequence[int], shared_tokens: int) -> tuple[float, float]:
    """CPU seconds of `second` by a worker that has `first` on disk from one before it, and the speed of reading, bytes/s."""
    with tempfile.TemporaryDirectory(prefix="bench-prefix-") as folder:
        cache, disk = with_disk(engine, Path(folder))
        prefill(engine, first, cache)
        disk.close(DEADLINE_S)
        cache, disk = with_disk(engine, Path(folder))
        cpu_s, _ = prefill(engine, second, cache, shared_tokens)
        disk.close(DEADLINE_S)
        return cpu_s, disk.speed.bytes_per_s


def with_disk(engine: Engine, folder: Path) -> tuple[PrefixCache, DiskTier]:
    at = engine.describe()
    cache = PrefixCache.for_model(at.layout, at.chunk_tokens, CAPACITY_BYTES)
    cache.lower = disk = DiskTier(
        folder,
        CAPACITY_BYTES,
        at.fingerprint,
        block_tokens=at.chunk_tokens,
        checkpoint_spacing=cache.checkpoint_spacing,
        compute_s=cache.compute_s,
    )
    return cache, disk


def measure(model: str, prompt_tokens: int, shared_tokens: int, rounds: int) -> Found:
    engine = build_engine(EngineConfig(model=model, device="cpu"))
    block_tokens = engine.describe().chunk_tokens
    source = random.Random(1)
    first, second = (source.choices(range(1000, 40_000), k=prompt_tokens) for _ in range(2))
    second[:shared_tokens] = first[:shared_tokens]
    prefill(engine, first[:block_tokens], None)
    taken: dict[str, list[float]] = {
        "without a cache": [], "keeps its blocks": [], "after a cached prefix": [], "after one on disk": [],
    }  # fmt: skip
    read_bytes_per_s: list[float] = []
    for turn in range(rounds):
        cache = PrefixCache.for_model(engine.describe().layout, block_tokens, CAPACITY_BYTES)
        variants = {
            "without a cache": lambda: prefill(engine, first, None),
            "keeps its blocks": lambda cache=cache: prefill(engine, first, cache),  # type: ignore[misc]
        }
        for name in sorted(variants, reverse=bool(turn % 2)):
            cpu_s, whole_bytes = variants[name]()
            taken[name].append(cpu_s)
        cpu_s, rest_bytes = prefill(engine, second, cache, shared_tokens)
        taken["after a cached prefix"].append(cpu_s)
        cpu_s, bytes_per_s = from_disk(engine, first, second, shared_tokens)
        taken["after one on disk"].append(cpu_s)
        read_bytes_per_s.append(bytes_per_s)
    plain = taken["without a cache"]
    ratios = {
        name: statistics.median(mine / its for mine, its in zip(samples, plain, strict=True)) for name, samples in taken.items()
    }
    for name, samples in taken.items():
        print(f"{model:13} {name:22} {statistics.median(samples):7.3f} CPU s, x {ratios[name]:5.3f}", flush=True)
    print(f"{model:13} shipped {whole_bytes / 1e6:.1f} MB whole, {rest_bytes / 1e6:.1f} MB where both ends have the prefix")
    return Found(
        model=model,
        prompt_tokens=prompt_tokens,
        shared_tokens=shared_tokens,
        plain_cpu_s=statistics.median(plain),
        keeping_ratio=ratios["keeps its blocks"],
        cached_ratio=ratios["after a cached prefix"],
        disk_ratio=ratios["after one on disk"],
        disk_read_bytes_per_s=statistics.median(read_bytes_per_s),
        whole_bytes=whole_bytes,
        rest_bytes=rest_bytes,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.bench.prefix", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=sorted(SOURCES), choices=sorted(SOURCES))
    parser.add_argument("--prompt-tokens", type=int, default=2560)
    parser.add_argument("--shared-tokens", type=int, default=2048, help="whole blocks")
    parser.add_argument("--rounds", type=int, default=5)
    add_json_option(parser)
    options = parser.parse_args()
    at = conditions("torch")
    found = [measure(model, options.prompt_tokens, options.shared_tokens, options.rounds) for model in options.models]
    write_json(Report(conditions=at, models=found), options.json)


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
