"""Profile of an engine as it runs here: T_prefill(l), and the decode step's time by batch, each on an otherwise idle engine."""

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

from prfaas.capacity.profiles import DecodePoint, PrefillPoint, Profile
from prfaas.contracts.to_decode import Sampling
from prfaas.engine.protocol import DecodeRow, Engine
from prfaas.kvcache.layout import KVPiece

Point = TypeVar("Point", PrefillPoint, DecodePoint)
ENOUGH_S = 2.0
"""Time after which a point is measured no more, s."""
MAX_ROUNDS = 7
WARM_UP_STEPS = 1
_TOKEN_IDS = range(3, 250)
"""Token ids of every vocabulary. Their meaning does not change the time."""


def measure_profile(
    engine: Engine,
    *,
    name: str,
    source: str,
    lengths: Sequence[int],
    batches: Sequence[int],
    context_tokens: int,
    measured: Callable[[PrefillPoint | DecodePoint], None] = lambda point: None,
) -> Profile:
    """Measures medians at every length and batch. Decode steps start at `context_tokens`; `measured` gets each point at once.

    Other work makes a point slower and never faster: one that took longer than a larger one is given that one's time.

    Raises EngineError for a length or batch that the engine cannot take, ProfileError where the points make no profile."""
    prompt = random.Random(1).choices(_TOKEN_IDS, k=max(*lengths, context_tokens))
    layout = engine.describe().layout
    engine.prefill(prompt[: min(lengths)], _discard, _never)  # the first run allocates and compiles
    prefill = []
    for tokens in sorted(set(lengths)):
        point = PrefillPoint(
            tokens=tokens, prefill_s=_median_s(_prefills(engine, prompt[:tokens])), kv_bytes=layout.total_bytes(tokens)
        )
        measured(point)
        prefill.append(point)
    pieces: list[KVPiece] = []
    if batches:
        engine.prefill(prompt[:context_tokens], pieces.append, _never)
    decode = []
    for batch in sorted(set(batches)):
        step = DecodePoint(batch=batch, step_s=_median_s(_steps(engine, pieces, context_tokens, batch)))
        measured(step)
        decode.append(step)
    return Profile(
        name=name,
        source=source,
        prefill=_undisturbed(prefill, "prefill_s"),
        decode=_undisturbed(decode, "step_s"),
    )


def _undisturbed(points: Sequence[Point], field: str) -> tuple[Point, ...]:
    least = math.inf
    found: list[Point] = []
    for point in reversed(points):
        least = min(least, getattr(point, field))
        found.append(msgspec.structs.replace(point, **{field: least}))
    return tuple(reversed(found))


def _prefills(engine: Engine, prompt: Sequence[int]) -> Iterator[float]:
    while True:
        begun_s = time.perf_counter()
        engine.prefill(prompt, _discard, _never)
        yield time.perf_counter() - begun_s


def _steps(engine: Engine, pieces: Sequence[KVPiece], context_tokens: int, batch: int) -> Iterator[float]:
    """Yields the steps' times, s, of one batch whose sequences grow by a token per step."""
    steps = WARM_UP_STEPS + MAX_ROUNDS
    sampling = Sampling(max_tokens=steps, temperature=0.0, ignore_eos=True)
    rows = []
    for _ in range(batch):
        sequence = engine.reserve(context_tokens, context_tokens + steps)
        for piece in pieces:
            engine.install(sequence, piece)
        rows.append(DecodeRow(sequence=sequence, token_id=_TOKEN_IDS[0], sampler=engine.sampler(sampling)))
    for step in range(steps):
        begun_s = time.perf_counter()
        tokens = engine.decode(rows)
        took_s = time.perf_counter() - begun_s
        for row, token in zip(rows, tokens, strict=True):
            row.token_id = token.token_id
        if step >= WARM_UP_STEPS:
            yield took_s


def _median_s(rounds: Iterator[float]) -> float:
    samples: list[float] = []
    for took_s in rounds:
        samples.append(took_s)
        if len(samples) == MAX_ROUNDS or sum(samples) >= ENOUGH_S:
            break
    return statistics.median(samples)


def _discard(piece: KVPiece) -> None:
    """Drops KV that would be shipped: shipping is not the engine's time."""


def _never() -> bool:
    return False
