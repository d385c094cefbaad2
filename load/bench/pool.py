"""Hits of the pool of prefix blocks on real prompts, by its size, under our order of eviction and by recency alone.

The pool is the workers' own. Blocks have the size of 512 tokens of the paper's 1T model and no memory behind them; one token of a
replayed prompt stands for a block. The bound is a pool of any size. Agents' sessions have no common clock: every
second one begins at a random moment of an hour.

Then pulls of a prefix between two real sites (`pull.py`), what a conversation's turns send over a link (`increment.py`), and what
pulls are worth at three rates of a link, simulated (`load.simulate.pulling`).
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import msgspec

from load.bench import increment, pull
from load.json_option import add_json_option, write_json
from load.machine import Conditions, conditions
from load.simulate import pulling
from prfaas.capacity.builtin import builtin_profile
from prfaas.engine.emulated_model import EMULATED_MODELS
from prfaas.kvcache.block import Part
from prfaas.kvcache.checkpoints import checkpoint_spacing
from prfaas.kvcache.compute_speed import ComputeSpeed
from prfaas.kvcache.eviction import CREDIT_TURNOVERS
from prfaas.kvcache.layout import KVLayout, LayerKind
from prfaas.kvcache.prefix_cache import PrefixCache
from prfaas.process import interruption
from prfaas.stack.launch import START_ERRORS
from prfaas.traces.agentx import read_agentx
from prfaas.traces.mooncake import read_mooncake
from prfaas.traces.request import TraceRequest

TRACES = Path(__file__).parents[1] / "traces" / "data"
BLOCK_TOKENS = 512
TARGET_TOKENS = 15_000_000
"""Size of the pool for which the summary speaks, in tokens' worth of full layers' KV."""
SIZES = {"mooncake": (2_000_000, 5_000_000, TARGET_TOKENS, 30_000_000, 60_000_000), "agentic": (5_000_000, TARGET_TOKENS)}
AGENTIC_S = 3600.0
PROFILE = builtin_profile("paper-1t-h200")
LAYOUT = EMULATED_MODELS["emulated-1t"].layout(PROFILE, byte_scale=1.0, token_scale=1.0)


class Prompt(NamedTuple):
    tokens: int
    blocks: Sequence[int]
    """Names of its whole blocks but for its last token, which no prefill computes."""


class Hits(msgspec.Struct, frozen=True, kw_only=True):
    share: float
    """Share of all prompt tokens that were found."""
    seconds_share: float
    """Share of the time that all prompts would take to compute, without a pool, that the pool has saved."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    trace: str
    order: str
    """`ours` or `lru`; `ours, checkpoints`: of the model with its states, which are kept at chosen blocks only."""
    pool_tokens: int
    hits: Hits
    of_bound: float
    seconds_of_bound: float
    operation_us: float
    """CPU time of the pool per block looked up, stored or evicted."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    conditions: Conditions
    bounds: dict[str, Hits]
    points: list[Point]
    pulls: list[pull.Turn]
    increments: list[increment.Increment]
    simulated: list[pulling.Cell]
    summary: dict[str, float]


def mooncake() -> list[Prompt]:
    return _prompts(read_mooncake(TRACES / "mooncake_conversation.jsonl.gz"))


def agentic(seed: int = 1) -> list[Prompt]:
    source = random.Random(seed)
    arrivals: list[tuple[float, TraceRequest]] = []
    trace = read_agentx(TRACES / "agentx_compact.jsonl.gz")
    sessions = groupby(trace, key=lambda request: request.session.partition("/")[0])
    for session in [list(requests) for _, requests in sessions][::2]:
        start_s = source.uniform(0.0, AGENTIC_S)
        arrivals += [(start_s + each.arrival_s, each) for each in session if start_s + each.arrival_s < AGENTIC_S]
    return _prompts(request for _, request in sorted(arrivals, key=lambda arrival: arrival[0]))


def _prompts(requests: Iterator[TraceRequest]) -> list[Prompt]:
    """Names blocks of 512 tokens by the last block of the trace's within them: it stands for all up to its end."""
    names: dict[int, int] = {}
    prompts = []
    for request in requests:
        step = BLOCK_TOKENS // request.block_tokens if request.block_tokens else 1
        ids = request.block_ids[step - 1 :: step][: (request.input_tokens - 1) // BLOCK_TOKENS]
        prompts.append(Prompt(request.input_tokens, [names.setdefault(each, len(names)) for each in ids]))
    return prompts


class Tally:
    """Sums what was found of all prompts."""

    def __init__(self) -> None:
        self._tokens = self._found_tokens = 0
        self._seconds = self._found_s = 0.0
        self.operations = 0

    def add(self, prompt: Prompt, found: int) -> None:
        self._tokens += prompt.tokens
        self._found_tokens += found * BLOCK_TOKENS
        self._seconds += SPEED.seconds(0, prompt.tokens)
        self._found_s += SPEED.seconds(0, found * BLOCK_TOKENS)
        self.operations += len(prompt.blocks)

    def hits(self) -> Hits:
        return Hits(share=self._found_tokens / self._tokens, seconds_share=self._found_s / self._seconds)


def bound(prompts: Sequence[Prompt]) -> Hits:
    seen: set[int] = set()
    tally = Tally()
    for prompt in prompts:
        new = next((index for index, block in enumerate(prompt.blocks) if block not in seen), len(prompt.blocks))
        seen.update(prompt.blocks)
        tally.add(prompt, new)
    return tally.hits()


def replayed(prompts: Sequence[Prompt], pool_tokens: int, *, credit_turnovers: float, checkpoints: bool = False) -> Tally:
    """Serves the prompts one after another, each with all of its blocks in use at a time, as a worker does."""
    layout = LAYOUT if checkpoints else _full_layers(LAYOUT)
    block_bytes = sum(layout.range_bytes(part) for part in layout.block_ranges(0, BLOCK_TOKENS))
    block = Part((), block_bytes)
    state = Part((), sum(layout.range_bytes(part) for part in layout.checkpoint_ranges(BLOCK_TOKENS)))
    pool = PrefixCache(
        1,
        pool_tokens // BLOCK_TOKENS * block_bytes,
        checkpoint_spacing=checkpoint_spacing(layout, BLOCK_TOKENS),
        compute_s=lambda start, end: SPEED.seconds(start * BLOCK_TOKENS, end * BLOCK_TOKENS),
        credit_turnovers=credit_turnovers,
    )
    tally = Tally()
    for prompt in prompts:
        with pool.pin(prompt.blocks) as prefix:
            tally.add(prompt, prefix.tokens)
            while prefix.wants(prefix.tokens, prefix.tokens + 1) and prefix.tokens < len(prompt.blocks):
                if not prefix.append(block, state if prefix.wants_checkpoint else None):
                    break
    pool.validate()
    return tally


def _full_layers(layout: KVLayout) -> KVLayout:
    return KVLayout(dtype=layout.dtype, layers=tuple(spec for spec in layout.layers if spec.kind is LayerKind.FULL))


def _speed() -> ComputeSpeed:
    """Learns the machine's time of a block by its place, as a worker does. What every prefill takes is no block's."""
    speed = ComputeSpeed()
    for start in range(2 * BLOCK_TOKENS, PROFILE.last_tokens - BLOCK_TOKENS, BLOCK_TOKENS):
        end = start + BLOCK_TOKENS
        speed.observe(start, end, PROFILE.prefill_s(end) - PROFILE.prefill_s(start))
    return speed


SPEED = _speed()


ORDERS = {
    "ours": {"credit_turnovers": CREDIT_TURNOVERS},
    "lru": {"credit_turnovers": 0.0},
    "ours, checkpoints": {"credit_turnovers": CREDIT_TURNOVERS, "checkpoints": True},
}


def measure(name: str, prompts: Sequence[Prompt], sizes: Sequence[int], most: Hits) -> Iterator[Point]:
    for pool_tokens in sizes:
        for order, options in ORDERS.items():
            started_s = time.process_time()
            tally = replayed(prompts, pool_tokens, **options)  # type: ignore[arg-type]
            took_s = time.process_time() - started_s
            hits = tally.hits()
            point = Point(
                trace=name,
                order=order,
                pool_tokens=pool_tokens,
                hits=hits,
                of_bound=hits.share / most.share,
                seconds_of_bound=hits.seconds_share / most.seconds_share,
                operation_us=took_s / tally.operations * 1e6,
            )
            print(
                f"{name:9} {pool_tokens / 1e6:5.0f} M tokens  {order:18} {hits.share:6.1%} of tokens, "
                f"{point.of_bound:6.1%} of the bound; seconds {point.seconds_of_bound:6.1%}; {point.operation_us:.1f} us a block",
                flush=True,
            )
            yield point


def summary(points: Sequence[Point]) -> dict[str, float]:
    at = {(point.trace, point.order): point.of_bound for point in points if point.pool_tokens == TARGET_TOKENS}
    return {
        f"{trace}_hit_of_bound{suffix}": at[trace, order]
        for trace in SIZES
        for order, suffix in (("ours", ""), ("lru", "_lru"), ("ours, checkpoints", "_checkpoints"))
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.bench.pool", description=__doc__.splitlines()[0])
    parser.add_argument("--pulls", type=int, default=2, help=f"prompts of {pull.PREFIX_TOKENS} tokens to pull and to compute")
    parser.add_argument("--seeds", type=int, default=pulling.SEEDS, help="of each simulated run; default: %(default)s")
    add_json_option(parser)
    options = parser.parse_args()
    at = conditions()
    bounds: dict[str, Hits] = {}
    points: list[Point] = []
    for name, read in (("mooncake", mooncake), ("agentic", agentic)):
        prompts = read()
        bounds[name] = bound(prompts)
        print(f"{name:9} {len(prompts)} prompts; a pool of any size finds {bounds[name].share:.1%} of the tokens", flush=True)
        points += measure(name, prompts, SIZES[name], bounds[name])
    try:
        turns = interruption.run(pull.measure(options.pulls))
        of_pulls = pull.summary(turns)
        increments = interruption.run(increment.measure())
        of_pulls |= increment.summary(increments)
    except (*START_ERRORS, RuntimeError) as error:
        print(f"load.bench.pool: {error}", file=sys.stderr)
        return 1
    simulated = pulling.measure([*pulling.LOADS], options.seeds, pulling.SECONDS)
    report = Report(
        conditions=at,
        bounds=bounds,
        points=points,
        pulls=turns,
        increments=increments,
        simulated=simulated,
        summary=summary(points) | of_pulls | pulling.summary(simulated),
    )
    print("\n".join(f"{name} {value:.4f}" for name, value in report.summary.items()))
    write_json(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
