"""What prefix caches cost and save: prefills that keep their blocks, and ones that begin after a cached prefix.

Times are CPU seconds of the engine's thread, of variants in turns: other work on the machine moves them less than wall time.
"""

import argparse
import random
import statistics
import time
from collections.abc import Sequence

from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.engine.protocol import Engine
from prfaas.engine.weights import SOURCES
from prfaas.kvcache.layout import KVPiece
from prfaas.kvcache.prefix_cache import PrefixCache

CAPACITY_BYTES = 1 << 30


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


def measure(model: str, prompt_tokens: int, shared_tokens: int, rounds: int) -> None:
    engine = build_engine(EngineConfig(model=model, device="cpu"))
    block_tokens = engine.describe().chunk_tokens
    source = random.Random(1)
    first, second = (source.choices(range(1000, 40_000), k=prompt_tokens) for _ in range(2))
    second[:shared_tokens] = first[:shared_tokens]
    prefill(engine, first[:block_tokens], None)
    taken: dict[str, list[float]] = {"without a cache": [], "keeps its blocks": [], "after a cached prefix": []}
    for turn in range(rounds):
        cache = PrefixCache(block_tokens, CAPACITY_BYTES)
        variants = {
            "without a cache": lambda: prefill(engine, first, None),
            "keeps its blocks": lambda cache=cache: prefill(engine, first, cache),  # type: ignore[misc]
        }
        for name in sorted(variants, reverse=bool(turn % 2)):
            cpu_s, whole_bytes = variants[name]()
            taken[name].append(cpu_s)
        cpu_s, rest_bytes = prefill(engine, second, cache, shared_tokens)
        taken["after a cached prefix"].append(cpu_s)
    for name, samples in taken.items():
        ratio = statistics.median(mine / plain for mine, plain in zip(samples, taken["without a cache"], strict=True))
        print(f"{model:13} {name:22} {statistics.median(samples):7.3f} CPU s, x {ratio:5.3f}", flush=True)
    print(f"{model:13} shipped {whole_bytes / 1e6:.1f} MB whole, {rest_bytes / 1e6:.1f} MB where both ends have the prefix")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.bench_prefix", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=sorted(SOURCES), choices=sorted(SOURCES))
    parser.add_argument("--prompt-tokens", type=int, default=2560)
    parser.add_argument("--shared-tokens", type=int, default=2048, help="whole blocks")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for model in options.models:
        measure(model, options.prompt_tokens, options.shared_tokens, options.rounds)


if __name__ == "__main__":
    main()
