"""Cases for the comparison of policies: the paper's machines under loads and links that are not steady."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, takewhile
from pathlib import Path
from typing import NamedTuple

from load.arrivals import of_trace, poisson
from load.simulate.paper import DEPLOYMENTS, H20, H200, LENGTHS, LINK_BYTES_PER_S, OUTPUT_TOKENS, STEADY
from load.simulate.scenario import LinkSpec
from prfaas.capacity.lengths import EmpiricalLengths
from prfaas.planner.solver import TwoSites, best_threshold
from prfaas.planner.uncached import uncached_tokens
from prfaas.replay.arrival import Arrival
from prfaas.traces import TraceRequest, read_agentx, read_azure, read_mooncake, spread_arrivals

TRACES = Path(__file__).parents[1] / "traces" / "data"
MACHINES = DEPLOYMENTS["threshold"]
"""4 + 3 + 5 in all cases."""
MOONCAKE_BUCKET_S = 3.0
MAX_PROMPT_TOKENS = 131_072
BLOCK_TOKENS = 512
CACHE_BYTES = 145_000_000_000
"""Memory of a node for its worker's prefix cache, where it has one: 8.4 million tokens of this model's full layers, if it kept
nothing else. A recurrent state takes as much of it as 21 blocks."""


class Case(NamedTuple):
    name: str
    what: str
    arrivals: Sequence[Arrival]
    link: LinkSpec
    threshold_tokens: int
    """The paper's solver on these very lengths: with caches, on what one cache that forgets nothing would leave to compute."""
    duration_s: float
    cache_bytes: int = 0
    """Memory of each worker for its prefix cache; 0: none."""
    block_tokens: int = BLOCK_TOKENS


FIXED_POINT_ROUNDS = 8
WINDOWS = 4
"""Windows of a trace that seeds take in turn."""
PASSES = 3
BLOCK_IDS = 1 << 40
"""Distance of the names of blocks from one pass to the next."""


def cases(
    load: float, *, duration_s: float = 1800.0, seed: int = 1, block_tokens: int = BLOCK_TOKENS
) -> dict[str, Callable[[], Case]]:
    """Cases by name, each made when it is called. `load`: share of what the paper's policy could carry without queues."""

    def paper(name: str, what: str, link: LinkSpec) -> Case:
        rate = load * carried_req_s([LENGTHS.quantile((i + 0.5) / 4096) for i in range(4096)], OUTPUT_TOKENS)
        arrivals = poisson(LENGTHS, rate_req_s=rate, duration_s=duration_s, output_tokens=OUTPUT_TOKENS, seed=seed)
        return Case(name, what, arrivals, link, solved_threshold(arrivals), duration_s)

    def trace(name: str, what: str, arrivals: Sequence[Arrival]) -> Case:
        return Case(name, what, arrivals, STEADY, solved_threshold(arrivals), duration_s)

    def caching(name: str, what: str, arrivals: Sequence[Arrival]) -> Case:
        threshold = solved_threshold(uncached(arrivals, block_tokens))
        return Case(name, what, arrivals, STEADY, threshold, duration_s, CACHE_BYTES, block_tokens)

    def drop(full_gbit_s: float) -> LinkSpec:
        full = full_gbit_s * 1e9 / 8
        return LinkSpec(rates=((0.0, full), (0.4 * duration_s, full / 10), (0.6 * duration_s, full)))

    def mooncake(*, raw_stamps: bool, reuse: bool) -> list[Arrival]:
        requests: Iterable[TraceRequest] = windowed(read_mooncake(TRACES / "mooncake_conversation.jsonl.gz"), seed)
        if not raw_stamps:
            requests = spread_arrivals(requests, bucket_s=MOONCAKE_BUCKET_S, seed=seed)
        arrivals = of(requests)
        if not reuse:
            return at_load(arrivals, arrivals)
        work = uncached(arrivals, block_tokens)
        for _ in range(FIXED_POINT_ROUNDS):  # caches are empty at first: the first part of a trace brings more work than the rest
            work = work[: round(rate_req_s(work) * duration_s)]
        return at_load(arrivals, work)

    def azure() -> list[Arrival]:
        arrivals = of(read_azure(TRACES / "azure_2023_conv.csv.gz"))
        return at_load(arrivals, arrivals)

    def agentic() -> list[Arrival]:
        """Sessions at their own pace, as many as make the load in the mean. They all begin within the run, for one that is under
        way would come to empty caches: so the load rises."""
        sessions = [
            of(requests)
            for _, requests in groupby(read_agentx(TRACES / "agentx_compact.jsonl.gz"), key=lambda each: each.session[:10])
        ]
        source = random.Random(seed)
        source.shuffle(sessions)
        work = [each for session in sessions for each in uncached(session, block_tokens)]
        wanted = rate_req_s(work) * duration_s
        arrivals: list[Arrival] = []
        for session in sessions * 100:
            start_s = source.uniform(0.0, duration_s)
            begun = takewhile(lambda each: start_s + each.arrival_s < duration_s, session)  # noqa: B023
            arrivals += [each._replace(arrival_s=start_s + each.arrival_s) for each in begun]
            if len(arrivals) >= wanted:
                break
        return sorted(arrivals)

    def of(requests: Iterable[TraceRequest]) -> list[Arrival]:
        return list(of_trace(requests, max_prompt_tokens=MAX_PROMPT_TOKENS, block_tokens=block_tokens))

    def rate_req_s(work: Sequence[Arrival]) -> float:
        output_tokens = sum(arrival.output_tokens for arrival in work) / len(work)
        return load * carried_req_s([arrival.prompt_tokens for arrival in work], output_tokens)

    def at_load(arrivals: list[Arrival], work: Sequence[Arrival]) -> list[Arrival]:
        """The first part of a trace, as fast as it takes; `work` is what has to be computed of it."""
        factor = rate_req_s(work) * arrivals[-1].arrival_s / len(arrivals)
        faster = [arrival._replace(arrival_s=arrival.arrival_s / factor) for arrival in arrivals]
        return [arrival for arrival in faster if arrival.arrival_s < duration_s]

    return {
        "steady": lambda: paper("steady", "the paper's lengths, a steady link", STEADY),
        "drop100": lambda: paper("drop100", "100 Gbit/s falls to 10 for a fifth of the run", drop(100)),
        "drop20": lambda: paper("drop20", "20 Gbit/s falls to 2 for a fifth of the run", drop(20)),
        "mooncake": lambda: trace("mooncake", "Mooncake, stamps spread", mooncake(raw_stamps=False, reuse=False)),
        "bursts": lambda: trace("bursts", "Mooncake, raw stamps", mooncake(raw_stamps=True, reuse=False)),
        "reuse": lambda: caching("reuse", "Mooncake, workers with prefix caches", mooncake(raw_stamps=False, reuse=True)),
        "agentic": lambda: caching("agentic", "coding agents, workers with prefix caches", agentic()),
        "azure": lambda: trace("azure", "Azure's short prompts", azure()),
    }


def uncached(arrivals: Sequence[Arrival], block_tokens: int) -> list[Arrival]:
    """Arrivals with the lengths that one cache for all of them, which forgets nothing, would leave."""
    prompts = [TraceRequest(0.0, each.prompt_tokens, 0, each.block_ids, block_tokens) for each in arrivals]
    left = uncached_tokens(prompts)
    return [each._replace(prompt_tokens=max(2, tokens)) for each, tokens in zip(arrivals, left, strict=True)]


def windowed(trace: Iterable[TraceRequest], seed: int) -> Iterator[TraceRequest]:
    """The trace from one of its quarters on, by the seed (1: from its beginning), and again from its beginning, as long as a run
    of an hour may need. No prompt comes again with the blocks of an earlier pass: a cache would know all of it."""
    requests = list(trace)
    length_s = requests[-1].arrival_s + 1.0
    first = (seed - 1) % WINDOWS * len(requests) // WINDOWS
    start_s = requests[first].arrival_s
    for again in range(PASSES):
        for each in requests[first if not again else 0 :]:
            blocks = tuple(block + again * BLOCK_IDS for block in each.block_ids) if again else each.block_ids
            yield each._replace(arrival_s=each.arrival_s + again * length_s - start_s, block_ids=blocks)


def two_sites(lengths_tokens: Sequence[float], output_tokens: float, link_bytes_per_s: float = LINK_BYTES_PER_S) -> TwoSites:
    return TwoSites(
        lengths=EmpiricalLengths(lengths_tokens),
        output_tokens=output_tokens,
        prfaas=H200,
        n_prfaas=MACHINES.n_prfaas,
        pd=H20,
        n_pd=MACHINES.n_prefill + MACHINES.n_decode,
        egress_bytes_per_s=link_bytes_per_s,
    )


def solved_threshold(arrivals: Sequence[Arrival], link_bytes_per_s: float = LINK_BYTES_PER_S) -> int:
    """Eq 7 at the paper's split of the pd site."""
    lengths = [arrival.prompt_tokens for arrival in arrivals]
    output_tokens = sum(arrival.output_tokens for arrival in arrivals) / len(arrivals)
    found = best_threshold(two_sites(lengths, output_tokens, link_bytes_per_s), MACHINES.n_prefill).threshold_tokens
    assert found is not None
    return round(found)


def carried_req_s(lengths_tokens: Sequence[float], output_tokens: float) -> float:
    """Rate by the mean of T(L), as requests bring it, at the solver's threshold; decode by Eq 5."""
    case = two_sites(lengths_tokens, output_tokens)
    threshold = best_threshold(case, MACHINES.n_prefill).threshold_tokens or 0.0
    count = len(lengths_tokens)
    remote_s = sum(H200.prefill_s(tokens) for tokens in lengths_tokens if tokens > threshold) / count
    local_s = sum(H20.prefill_s(tokens) for tokens in lengths_tokens if tokens <= threshold) / count
    limits = [case.decode_req_s(MACHINES.n_decode)]
    limits += [workers / work_s for workers, work_s in ((case.n_prfaas, remote_s), (MACHINES.n_prefill, local_s)) if work_s]
    return min(limits)
