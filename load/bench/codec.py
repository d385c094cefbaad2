"""Cost and gain of each codec on real KV, and the lossy one's effect on answers: `python -m load.bench.codec [--json FILE]`.

Every prompt is real text: pages of these docs and modules of the standard library. It is prefilled once; its KV goes frame by
frame through each codec, is installed, and 64 tokens are decoded greedily from it. "Equal" compares the free-running answers
place by place, as a client would see them. "Same choice" and the log-probabilities feed the answer of the untouched KV to both,
so that one early difference does not count for all that follow. `zeros` is the control: KV of the right size that holds nothing.
Speeds are per second of CPU time, so that other work on the machine disturbs them less.
"""

import argparse
import inspect
import os
import statistics
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from tokenizers import Tokenizer

from load.json_option import add_json_option, write_json
from load.machine import Conditions, conditions
from prfaas.contracts.to_decode import Sampling
from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.engine.protocol import DecodeRow, Engine, SampledToken
from prfaas.engine.weights import SOURCES, prepare
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind
from prfaas.process import interruption
from prfaas.transfer.codec import decode_planes, encode_planes
from prfaas.transfer.frame import cut_piece
from prfaas.transfer.quantize import decode_int8, encode_int8

ROOT = Path(__file__).parents[2]
PAGES = ("docs/structure.md", "docs/api.md", "docs/operating.md", "docs/plan.md")
MODULES = ("argparse", "textwrap", "statistics", "asyncio.locks")
PROMPT_TOKENS = (300, 600, 1000, 2000)
"""Prompt lengths: one for each page, then the same for the modules."""
ANSWER_TOKENS = 64
FRAME_BYTES = 1 << 20
CODECS = ("raw", "planes", "int8", "zeros")
TOP = 50
"""Candidates among which the reference's token is looked for; if it is not there, the last one's figure bounds the difference."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    codec: str
    bytes_ratio: float
    """Coded over raw."""
    encode_mib_per_s: float
    """Raw bytes per second of CPU time; 0: nothing to do."""
    decode_mib_per_s: float
    equal_tokens: float
    identical_answers: str
    first_difference: float | None
    """Median token, from 0, of the answers that differ."""
    same_choice: float
    """Share of places where both would take the same token after the same text."""
    mean_logprob_difference: float
    """Absolute, of the reference's tokens, natural logarithm."""
    max_logprob_difference: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    conditions: Conditions
    prompts: dict[str, int]
    """Source of each prompt -> its tokens at most."""
    results: list[Result]


class Coded(NamedTuple):
    pieces: list[KVPiece]
    raw_bytes: int
    coded_bytes: int
    encode_s: float
    decode_s: float


class Answer(NamedTuple):
    tokens: list[int]
    same_choices: int
    differences: list[float]


def through(codec: str, layout: KVLayout, pieces: Sequence[KVPiece]) -> Coded:
    """The pieces as a receiver would install them."""
    installed, raw_bytes, coded_bytes, encode_s, decode_s = [], 0, 0, 0.0, 0.0
    for piece in pieces:
        spec = layout.layers[piece.range.layer]
        for part in cut_piece(layout, piece, FRAME_BYTES):
            whole = memoryview(b"".join(part.parts))
            started_s = time.thread_time()
            coded: Any = whole
            if codec == "planes":
                coded = encode_planes(part.parts, layout.dtype_bytes)
            elif codec == "int8" and spec.kind is not LayerKind.RECURRENT:
                coded = encode_int8(part.parts, layout.dtype, spec.vector_dim) or whole
            encoded_s = time.thread_time()
            if coded is whole:
                decoded = memoryview(bytes(len(whole))) if codec == "zeros" else whole
            elif codec == "planes":
                decoded = decode_planes(memoryview(coded), len(whole), layout.dtype_bytes)
            else:
                decoded = decode_int8(memoryview(coded), len(whole), layout.dtype, spec.vector_dim)
            decode_s += time.thread_time() - encoded_s
            encode_s += encoded_s - started_s
            raw_bytes, coded_bytes = raw_bytes + len(whole), coded_bytes + len(coded)
            installed.append(layout.piece(part.range, decoded))
    return Coded(installed, raw_bytes, coded_bytes, encode_s, decode_s)


def row_of(engine: Engine, prompt: Sequence[int], pieces: Sequence[KVPiece]) -> DecodeRow:
    sequence = engine.reserve(len(prompt) - 1, len(prompt) + ANSWER_TOKENS)
    for piece in pieces:
        engine.install(sequence, piece)
    sampler = engine.sampler(Sampling(max_tokens=ANSWER_TOKENS, temperature=0, top_logprobs=TOP))
    return DecodeRow(sequence=sequence, token_id=prompt[-1], sampler=sampler)


def answers(engine: Engine, prompt: Sequence[int], coded: dict[str, Coded]) -> dict[str, Answer]:
    """One batch: per codec a row that feeds itself, and a row that is fed the answer of the untouched KV."""
    free = {codec: row_of(engine, prompt, found.pieces) for codec, found in coded.items()}
    forced = {codec: row_of(engine, prompt, found.pieces) for codec, found in coded.items()}
    told = {codec: Answer([], 0, []) for codec in coded}
    for _ in range(ANSWER_TOKENS):
        sampled = engine.decode([*free.values(), *forced.values()])
        by_itself = dict(zip(free, sampled[: len(free)], strict=True))
        led = dict(zip(forced, sampled[len(free) :], strict=True))
        reference = by_itself["raw"]
        for codec in coded:
            tokens, same_choices, differences = told[codec]
            tokens.append(by_itself[codec].token_id)
            differences.append(abs(logprob_of(led[codec], reference.token_id) - logprob_of(reference, reference.token_id)))
            told[codec] = Answer(tokens, same_choices + (led[codec].token_id == reference.token_id), differences)
            free[codec].token_id = by_itself[codec].token_id
            forced[codec].token_id = reference.token_id
    return told


def logprob_of(sampled: SampledToken, token_id: int) -> float:
    return dict(sampled.top).get(token_id, sampled.top[-1][1])


def prompts_of(tokenizer: Tokenizer) -> dict[str, list[int]]:
    texts = {page: (ROOT / page).read_text() for page in PAGES}
    texts |= {module: inspect.getsource(import_module(module)) for module in MODULES}
    return {
        name: tokenizer.encode(text).ids[:tokens] for (name, text), tokens in zip(texts.items(), PROMPT_TOKENS * 2, strict=True)
    }


def measure(model: str) -> list[Result]:
    engine = build_engine(EngineConfig(model=model, device="cpu"))
    layout = engine.describe().layout
    prompts = prompts_of(Tokenizer.from_file(str(prepare(model).tokenizer)))
    told: dict[str, list[Answer]] = {codec: [] for codec in CODECS}
    coded: dict[str, list[Coded]] = {codec: [] for codec in CODECS}
    for prompt in prompts.values():
        pieces: list[KVPiece] = []
        engine.prefill(prompt[:-1], pieces.append, lambda: False)
        found = {codec: through(codec, layout, pieces) for codec in CODECS}
        for codec, answer in answers(engine, prompt, found).items():
            told[codec].append(answer)
            coded[codec].append(found[codec]._replace(pieces=[]))
    return [summary(model, codec, coded[codec], told["raw"], told[codec]) for codec in CODECS]


def summary(model: str, codec: str, coded: list[Coded], reference: list[Answer], told: list[Answer]) -> Result:
    raw_mib = sum(one.raw_bytes for one in coded) / 2**20
    equal = [np.equal(ours.tokens, theirs.tokens) for ours, theirs in zip(told, reference, strict=True)]
    firsts = [int(np.argmin(places)) for places in equal if not places.all()]
    differences = [value for answer in told for value in answer.differences]
    does = codec in ("planes", "int8")
    return Result(
        model=model,
        codec=codec,
        bytes_ratio=sum(one.coded_bytes for one in coded) / 2**20 / raw_mib,
        encode_mib_per_s=raw_mib / sum(one.encode_s for one in coded) if does else 0.0,
        decode_mib_per_s=raw_mib / sum(one.decode_s for one in coded) if does else 0.0,
        equal_tokens=float(np.mean(equal)),
        identical_answers=f"{len(told) - len(firsts)}/{len(told)}",
        first_difference=statistics.median(firsts) if firsts else None,
        same_choice=sum(answer.same_choices for answer in told) / (len(told) * ANSWER_TOKENS),
        mean_logprob_difference=statistics.fmean(differences),
        max_logprob_difference=max(differences),
    )


def line(result: Result) -> str:
    first = "-" if result.first_difference is None else f"{result.first_difference:g}"
    speed = f"{result.encode_mib_per_s:6.0f} / {result.decode_mib_per_s:6.0f}" if result.encode_mib_per_s else "     - /      -"
    return (
        f"{result.model:14} {result.codec:7} {result.bytes_ratio:6.1%}  {speed} MiB/s   {result.equal_tokens:6.1%} "
        f"{result.identical_answers:>5} {first:>6}   {result.same_choice:6.1%}   {result.mean_logprob_difference:.4f} "
        f"{result.max_logprob_difference:.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.bench.codec", description=__doc__.splitlines()[0])
    add_json_option(parser)
    parser.add_argument("--models", nargs="+", default=sorted(SOURCES), choices=sorted(SOURCES))
    options = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    torch.set_num_threads(1)
    at = conditions("torch")
    print(f"{at.machine}, one of them used; load average {at.load_average:.1f}")
    print(f"{len(PAGES + MODULES)} prompts of {', '.join(map(str, PROMPT_TOKENS))} tokens, {ANSWER_TOKENS} decoded greedily\n")
    print(f"{'':29}{'':13}one core{'':10}free-running{'':11}fed the reference's tokens")
    print("model          codec    bytes  encode / decode MiB/s   equal  same  first diff.  same choice  |d logprob| mean, max")
    results = []
    for model in options.models:
        for result in measure(model):
            results.append(result)
            print(line(result), flush=True)
    prompts = dict(zip(PAGES + MODULES, PROMPT_TOKENS * 2, strict=True))
    write_json(Report(conditions=at, prompts=prompts, results=results), options.json)


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
