"""Runs of many worlds, and the search for the seed that finds a bug."""

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from load.worlds.mutations import Mutation, mutated
from load.worlds.plan import make_plan
from load.worlds.world import World

COLLECT_EVERY: Final = 50
"""Worlds between two collections of garbage: a collection after every few objects costs a tenth of the time."""


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


def run_worlds(first_seed: int, worlds: int, on_violation: Callable[[Violation], None] = lambda _: None) -> Runs:
    """Runs worlds of consecutive seeds. Tells of each violation as it comes."""
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    violations: list[Violation] = []
    ends: Counter[str] = Counter()
    steps = 0
    for seed in _without_collections(range(first_seed, first_seed + worlds)):
        world = run_world(seed)
        steps += world.clockwork.steps
        ends.update(f"{world.plan.profile} {client.ends[0] if client.ends else 'none'}" for client in world.clients)
        if world.violations:
            violations.append(Violation(seed, world.violations))
            on_violation(violations[-1])
    return Runs(
        first_seed=first_seed,
        worlds=worlds,
        violations=violations,
        steps=steps,
        requests=ends.total(),
        ends=dict(sorted(ends.items())),
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


def _without_collections(seeds: Iterable[int]) -> Iterable[int]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        for number, seed in enumerate(seeds):
            if number % COLLECT_EVERY == 0:
                gc.collect()
            yield seed
    finally:
        if enabled:
            gc.enable()
