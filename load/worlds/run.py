"""Runs of many worlds, in one process or several, and the search for the seed that finds a bug."""

import gc
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from load.worlds.mutation import Mutation, mutated
from load.worlds.plan import make_plan
from load.worlds.world import World
from prfaas.process.child import running_with_parent
from prfaas.telemetry.logs import set_up_logs

COLLECT_EVERY: Final = 50
"""Worlds between two collections of garbage: a collection after every few objects costs a tenth of the time."""
CHUNK_WORLDS: Final = 100
"""Worlds that a process runs before it tells of them."""


class Violation(msgspec.Struct, frozen=True):
    seed: int
    what: list[str]

    @property
    def reproduction(self) -> str:
        """Returns the command that shows this world again."""
        return f"python -m load.worlds --seed {self.seed}"


class Runs(msgspec.Struct, frozen=True, kw_only=True):
    first_seed: int
    worlds: int
    violations: list[Violation]
    steps: int
    """Events of all worlds together."""
    requests: int
    ends: dict[str, int]
    """Requests by profile and end."""
    took_s: float
    cpu_s: float
    """Processor time of all processes together."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Search for one hand-made bug."""

    mutation: str
    seed: int | None
    """First seed that finds it; None where none did."""
    what: str
    worlds: int
    """Worlds that were run."""


def run_world(seed: int) -> World:
    return World(make_plan(seed)).run()


def run_worlds(first_seed: int, worlds: int, *, jobs: int = 1, on_chunk: Callable[[Runs], None] = lambda _: None) -> Runs:
    """Runs worlds of consecutive seeds in `jobs` processes. Tells of each chunk of them as it ends."""
    started_s = time.monotonic()
    seeds = range(first_seed, first_seed + worlds)
    done: list[Runs] = []
    for chunk in _chunks([seeds[at : at + CHUNK_WORLDS] for at in range(0, worlds, CHUNK_WORLDS)], jobs):
        done.append(chunk)
        on_chunk(chunk)
    ends: Counter[str] = Counter()
    for chunk in done:
        ends.update(chunk.ends)
    return Runs(
        first_seed=first_seed,
        worlds=worlds,
        violations=sorted((each for chunk in done for each in chunk.violations), key=lambda each: each.seed),
        steps=sum(chunk.steps for chunk in done),
        requests=sum(chunk.requests for chunk in done),
        ends=dict(sorted(ends.items())),
        took_s=time.monotonic() - started_s,
        cpu_s=sum(chunk.cpu_s for chunk in done),
    )


def silence() -> None:
    """Lets the shells that worlds run log nothing."""
    set_up_logs(level="critical", format="console")


def _chunks(chunks: list[range], jobs: int) -> Iterator[Runs]:
    if jobs == 1:
        yield from map(_run_chunk, chunks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=running_with_parent(silence)) as pool:
        yield from pool.imap_unordered(_run_chunk, chunks)


def _run_chunk(seeds: range) -> Runs:
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    violations: list[Violation] = []
    ends: Counter[str] = Counter()
    steps = 0
    for seed in _without_collections(seeds):
        world = run_world(seed)
        steps += world.clockwork.steps
        ends.update(f"{world.plan.profile} {client.ends[0] if client.ends else 'none'}" for client in world.clients)
        if world.violations:
            violations.append(Violation(seed, world.violations))
    return Runs(
        first_seed=seeds[0],
        worlds=len(seeds),
        violations=violations,
        steps=steps,
        requests=ends.total(),
        ends=dict(ends),
        took_s=time.monotonic() - started_s,
        cpu_s=time.process_time() - started_cpu_s,
    )


def find(mutation: Mutation, seeds: Iterable[int]) -> Found:
    """Runs those worlds of the seeds that may show the bug until one violates an invariant."""
    worlds = 0
    with mutated(mutation):
        for seed in _without_collections(seeds):
            plan = make_plan(seed)
            if not mutation.may_show(plan):
                continue
            worlds += 1
            violations = World(plan).run().violations
            if violations:
                return Found(mutation=mutation.name, seed=seed, what=violations[0], worlds=worlds)
    return Found(mutation=mutation.name, seed=None, what="", worlds=worlds)


def _without_collections(seeds: Iterable[int]) -> Iterator[int]:
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()  # what is there already is not looked through again with every few worlds
    gc.disable()
    try:
        for number, seed in enumerate(seeds):
            if number % COLLECT_EVERY == COLLECT_EVERY - 1:
                gc.collect()
            yield seed
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
