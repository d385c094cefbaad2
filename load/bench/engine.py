"""Our engine beside plain transformers, on one machine: `python -m load.bench.engine [--json FILE]`.

Plain transformers is its own forward with its own DynamicCache and sdpa attention. Prefill: ours (in chunks, handing out every
piece of KV) against plain in the same chunks and plain in one forward; the ratio is to the faster of the two. Neither computes
logits. Decode: one step for the whole batch, all rows at the same length (plain's best case, since it need not pad), greedy.
All variants take turns within one process, in alternating order; every number is a median (at 8,192 tokens of one round: a
second would take the whole past ten minutes). Beside the ratio of wall-clock times stands the ratio of CPU times, which other
work on the machine disturbs less.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from itertools import chain
from typing import Any

import msgspec
import torch
import transformers

from load.json_option import add_json_option, write_json
from load.machine import Conditions, conditions
from prfaas.contracts.to_decode import Sampling
from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.engine.protocol import DecodeRow, Engine
from prfaas.engine.weights import SOURCES, prepare
from prfaas.kvcache.layout import KVPiece
from prfaas.process import interruption

PREFILL_ROUNDS = {512: 5, 2048: 3, 8192: 1}
"""Prompt tokens: how often each variant runs."""
DECODE_BATCHES = (1, 8, 32)
DECODE_CONTEXT_TOKENS = 512
DECODE_TURNS = 5
DECODE_STEPS = 6
"""Steps in one turn of a variant."""
CLEARLY_SLOWER = 1.15
"""A way of running plain transformers that took this much longer than the fastest one is not run again: it is no baseline."""

Variant = Callable[[], object]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    work: str
    """`prefill 512`, `decode x8`."""
    tokens: int
    """Computed per run."""
    medians_s: dict[str, float]
    cpu_medians_s: dict[str, float]
    """CPU time of the process, all threads together."""
    ratio: float
    """Our time over plain transformers' (the faster variant): below 1 we are faster."""
    cpu_ratio: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    conditions: Conditions
    threads: int
    dtype: str
    chunk_tokens: int
    duration_s: float
    results: list[Result]


class Plain:
    """transformers as its users run it."""

    def __init__(self, model: str, dtype: torch.dtype, chunk_tokens: int) -> None:
        files = prepare(model)
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            files.directory, dtype=dtype, attn_implementation="sdpa", local_files_only=True
        )
        self.chunk_tokens = chunk_tokens

    @torch.inference_mode()
    def prefill(self, prompt: list[int], chunk_tokens: int) -> transformers.DynamicCache:
        cache = transformers.DynamicCache(config=self.model.config)
        for start in range(0, len(prompt), chunk_tokens):
            chunk = torch.tensor([prompt[start : start + chunk_tokens]])
            self.model.model(input_ids=chunk, past_key_values=cache, use_cache=True)
        return cache

    @torch.inference_mode()
    def decode_loop(self, prompt: list[int], batch: int) -> Variant:
        cache = self.prefill(prompt, self.chunk_tokens)
        cache.batch_repeat_interleave(batch)
        tokens = torch.full((batch, 1), prompt[-1])

        @torch.inference_mode()
        def step() -> None:
            nonlocal tokens
            tokens = self.model(input_ids=tokens, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)

        return step


def our_prefill(engine: Engine, prompt: list[int]) -> list[KVPiece]:
    pieces: list[KVPiece] = []
    engine.prefill(prompt, pieces.append, lambda: False)
    return pieces


def our_decode_loop(engine: Engine, prompt: list[int], batch: int) -> Variant:
    steps = DECODE_TURNS * DECODE_STEPS + 1
    pieces = our_prefill(engine, prompt)
    rows = []
    for _ in range(batch):
        sequence = engine.reserve(len(prompt), len(prompt) + steps)
        for piece in pieces:
            engine.install(sequence, piece)
        sampler = engine.sampler(Sampling(max_tokens=steps, temperature=0))
        rows.append(DecodeRow(sequence=sequence, token_id=prompt[-1], sampler=sampler))

    def step() -> None:
        for row, sampled in zip(rows, engine.decode(rows), strict=True):
            row.token_id = sampled.token_id

    return step


def take_turns(variants: dict[str, Variant], turns: int, runs_per_turn: int = 1) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of one run of each variant: wall clock, and CPU."""
    durations_s: dict[str, list[float]] = {name: [] for name in variants}
    cpu_s: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(turns):
        slowest_s = CLEARLY_SLOWER * min(
            (min(values) for name, values in durations_s.items() if values and name != "ours"), default=0
        )
        names = [name for name, values in durations_s.items() if name == "ours" or not values or values[0] < slowest_s]
        for name in names if turn % 2 == 0 else reversed(names):
            for _ in range(runs_per_turn):
                started_s, started_cpu_s = time.perf_counter(), time.process_time()
                variants[name]()
                durations_s[name].append(time.perf_counter() - started_s)
                cpu_s[name].append(time.process_time() - started_cpu_s)
    return medians(durations_s), medians(cpu_s)


def ratio(medians_s: dict[str, float]) -> float:
    return medians_s["ours"] / min(value_s for name, value_s in medians_s.items() if name != "ours")


def medians(samples: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in samples.items()}


def measure(model: str, dtype: str, threads: int, chunk_tokens: int) -> list[Result]:
    engine = build_engine(EngineConfig(model=model, dtype=dtype, threads=threads, chunk_tokens=chunk_tokens, device="cpu"))  # type: ignore[arg-type]
    plain = Plain(model, getattr(torch, dtype), chunk_tokens)
    text = list(chain.from_iterable(range(1000, 1000 + 997) for _ in range(9)))  # what tokens they are does not change the work
    results = []

    def record(work: str, tokens: int, measured: tuple[dict[str, float], dict[str, float]]) -> None:
        medians_s, cpu_medians_s = measured
        result = Result(
            model=model,
            work=work,
            tokens=tokens,
            medians_s=medians_s,
            cpu_medians_s=cpu_medians_s,
            ratio=ratio(medians_s),
            cpu_ratio=ratio(cpu_medians_s),
        )
        results.append(result)
        print(line(result), flush=True)

    our_prefill(engine, text[:256])
    plain.prefill(text[:256], chunk_tokens)
    for tokens, rounds in PREFILL_ROUNDS.items():
        prompt = text[:tokens]
        variants: dict[str, Variant] = {
            "ours": lambda prompt=prompt: our_prefill(engine, prompt),  # type: ignore[misc]
            "chunked": lambda prompt=prompt: plain.prefill(prompt, chunk_tokens),  # type: ignore[misc]
        }
        if tokens > chunk_tokens:
            variants["one forward"] = lambda prompt=prompt: plain.prefill(prompt, len(prompt))  # type: ignore[misc]
        record(f"prefill {tokens}", tokens, take_turns(variants, rounds))
    for batch in DECODE_BATCHES:
        prompt = text[:DECODE_CONTEXT_TOKENS]
        loops = {"ours": our_decode_loop(engine, prompt, batch), "batched": plain.decode_loop(prompt, batch)}
        for step in loops.values():
            step()
        record(f"decode x{batch}", batch, take_turns(loops, DECODE_TURNS, DECODE_STEPS))
    return results


def line(result: Result) -> str:
    plain = ", ".join(f"{name} {value * 1e3:8.1f}" for name, value in result.medians_s.items() if name != "ours")
    ours_s = result.medians_s["ours"]
    ours = f"{ours_s * 1e3:9.1f} ms {result.tokens / ours_s:7.0f} tok/s"
    return (
        f"{result.model:13} {result.work:13} {ours}   x {result.ratio:4.2f} of plain, CPU x {result.cpu_ratio:4.2f} ({plain} ms)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.bench.engine", description=__doc__.splitlines()[0])
    add_json_option(parser)
    parser.add_argument("--models", nargs="+", default=sorted(SOURCES), choices=sorted(SOURCES))
    parser.add_argument("--threads", type=int, default=1, help="torch threads of both (default: 1, as workers run)")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--chunk-tokens", type=int, default=512)
    options = parser.parse_args()
    started_s = time.monotonic()
    at = conditions("torch", "transformers")
    print(
        f"{at.machine}; {options.threads} torch thread(s), {options.dtype}, chunks of {options.chunk_tokens} tokens; "
        f"torch {at.versions['torch']}, transformers {at.versions['transformers']}; {at.date}, load average {at.load_average:.1f}"
    )
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    results = list(
        chain.from_iterable(measure(model, options.dtype, options.threads, options.chunk_tokens) for model in options.models)
    )
    duration_s = time.monotonic() - started_s
    print(f"took {duration_s:.0f} s")
    report = Report(
        conditions=at,
        threads=options.threads,
        dtype=options.dtype,
        chunk_tokens=options.chunk_tokens,
        duration_s=duration_s,
        results=results,
    )
    write_json(report, options.json)


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
