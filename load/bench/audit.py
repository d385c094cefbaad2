"""Distance between honest KV of unlike processors, and between honest KV and a lie: the figures behind `audit-tolerance`.

`python -m load.bench.audit [--json FILE]`. Each prompt is real text and is prefilled by the engine as it runs here. Compared with
that are: the same with chunks of another length (sums in another order), a prefill in float32 whose KV is rounded at the end (as
unlike as an honest processor gets), 8-bit frames, and a prompt of which one token is another one.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from tokenizers import Tokenizer

from load.bench.codec import prompts_of
from load.json_option import add_json_option, write_json
from load.machine import Conditions, conditions
from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.engine.protocol import Engine
from prfaas.engine.weights import SOURCES, prepare
from prfaas.kvcache.layout import KVLayout, KVPiece
from prfaas.process import interruption
from prfaas.transfer.quantize import decode_int8, encode_int8
from prfaas_decode_worker.kv_comparison import TOLERANCES, KVComparison

CHUNK_TOKENS, OTHER_CHUNK_TOKENS = 512, 192


class Result(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    what: str
    largest: float
    """Largest relative difference of a token's keys or values in any layer and prompt."""
    smallest: float
    """The same of the prompt where it is smallest."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    conditions: Conditions
    tolerance: float
    results: list[Result]


def pieces_of(engine: Engine, token_ids: Sequence[int]) -> list[KVPiece]:
    pieces: list[KVPiece] = []
    engine.prefill(token_ids, pieces.append, lambda: False)
    return pieces


def rounded(piece: KVPiece) -> KVPiece:
    """float32 as bfloat16, to the nearest."""

    def narrow(part: memoryview) -> memoryview:
        bits = np.frombuffer(part, np.uint32)
        return memoryview(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes())

    return KVPiece(piece.range, narrow(piece.keys), narrow(piece.values))


def in_8_bits(layout: KVLayout) -> Callable[[KVPiece], KVPiece]:
    def through(piece: KVPiece) -> KVPiece:
        vector_dim = layout.layers[piece.range.layer].vector_dim
        coded = encode_int8((piece.keys, piece.values), layout.dtype, vector_dim)
        assert coded is not None, "KV of a real model is finite"
        return layout.piece(piece.range, decode_int8(memoryview(coded), piece.size_bytes, layout.dtype, vector_dim))

    return through


def difference(layout: KVLayout, tokens: int, theirs: Sequence[KVPiece], own: Sequence[KVPiece]) -> float:
    comparison = KVComparison(layout, tokens, 0)
    for piece in theirs:
        comparison.take(piece)
    for piece in own:
        comparison.compare(piece)
    return comparison.difference


def measure(model: str) -> list[Result]:
    engine = build_engine(EngineConfig(model=model, device="cpu", chunk_tokens=CHUNK_TOKENS))
    chunked = build_engine(EngineConfig(model=model, device="cpu", chunk_tokens=OTHER_CHUNK_TOKENS))
    exact = build_engine(EngineConfig(model=model, device="cpu", dtype="float32", chunk_tokens=CHUNK_TOKENS))
    layout = engine.describe().layout
    found: dict[str, list[float]] = {}
    for token_ids in prompts_of(Tokenizer.from_file(str(prepare(model).tokenizer))).values():
        own = pieces_of(engine, token_ids)
        middle = len(token_ids) // 2
        lie = [*token_ids[:middle], token_ids[middle] + 1, *token_ids[middle + 1 :]]
        for what, theirs in (
            (f"chunks of {OTHER_CHUNK_TOKENS}", pieces_of(chunked, token_ids)),
            ("float32, rounded", [rounded(piece) for piece in pieces_of(exact, token_ids)]),
            ("8 bits", [in_8_bits(layout)(piece) for piece in own]),
            ("one token is another", pieces_of(engine, lie)),
        ):
            found.setdefault(what, []).append(difference(layout, len(token_ids), theirs, own))
    return [Result(model=model, what=what, largest=max(all_of), smallest=min(all_of)) for what, all_of in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.bench.audit", description=__doc__)
    add_json_option(parser)
    parser.add_argument("--models", nargs="+", default=[name for name in SOURCES if name.startswith(("gemma", "smol"))])
    arguments = parser.parse_args()
    at = conditions("torch", "transformers", "numpy")
    results = [result for model in arguments.models for result in measure(model)]
    for result in results:
        print(f"{result.model:16} {result.what:22} largest {result.largest:.4f}   smallest {result.smallest:.4f}", flush=True)
    write_json(Report(conditions=at, tolerance=TOLERANCES["bfloat16"], results=results), arguments.json)


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
