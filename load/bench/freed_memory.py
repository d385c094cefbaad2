"""Memory of a decode worker beyond the bound of its full prefix cache, with and without freed memory given back.

`python -m load.bench.freed_memory [--json FILE]`. Prompts of several lengths come and go, as emulated sequences of one process;
their blocks fill the cache and push one another out. Each arm is a process of its own.
"""

import argparse
import asyncio
import multiprocessing
import random
import sys
from collections import deque

import msgspec
import psutil

from load.emulated_stack import HOME, MODEL, two_sites
from load.json_option import add_json_option, write_json
from load.machine import conditions
from prfaas.engine.emulated import EmulatedEngine
from prfaas.engine.factory import EngineConfig
from prfaas.process import interruption
from prfaas.process.child import end_with_parent
from prfaas.site.sites import Role
from prfaas.worker.freed_memory import give_back_freed_memory
from prfaas_decode_worker.prefixes import KeptPrefixes

CACHE_MIB = 512
PROMPTS = 600
PROMPT_TOKENS = (300, 700, 1500, 3000)
RUNNING = 6
"""Sequences that are held at once, as those of a running batch."""
GIVE_BACK_EVERY_S = 1.0
"""Prompts come some ten times as fast here as to a worker that gives back every 10 s."""


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    gives_back: bool
    beyond_mib: list[float]
    """Resident memory beyond the start's, the cache's bound and the running sequences', at ten moments with a full cache."""


def _mib(size_bytes: float) -> float:
    return round(size_bytes / (1 << 20), 1)


async def churn(gives_back: bool) -> Arm:
    (config,) = [
        service.config
        for service in two_sites(remote_workers=1, rate_mbit=200.0).services
        if (service.site, service.role) == (HOME, Role.DECODE_WORKER)
    ]
    keys = msgspec.convert(config["engine"], EngineConfig)
    engine = EmulatedEngine(MODEL, msgspec.structs.replace(keys.emulated, time_scale=1e9), chunk_tokens=keys.chunk_tokens)
    kept = KeptPrefixes(engine, CACHE_MIB << 20, lambda changes: None, site=HOME)
    process, source = psutil.Process(), random.Random(1)
    start_bytes = process.memory_info().rss
    running: deque[tuple[object, int]] = deque(maxlen=RUNNING)
    giving = asyncio.create_task(give_back_freed_memory(GIVE_BACK_EVERY_S)) if gives_back else None
    beyond: list[float] = []
    for number in range(PROMPTS):
        token_ids = list(source.randbytes(source.choice(PROMPT_TOKENS)))
        sequence = engine.reserve(len(token_ids), len(token_ids) + 1)
        engine.prefill(token_ids, lambda piece, into=sequence: engine.install(into, piece), lambda: False)  # type: ignore[misc]
        await kept.keep(sequence, token_ids, HOME)
        running.append((sequence, engine.sequence_bytes(len(token_ids))))
        if number >= PROMPTS // 2 and number % (PROMPTS // 20) == 0:
            held_bytes = (CACHE_MIB << 20) + sum(size for _, size in running)
            beyond.append(_mib(process.memory_info().rss - start_bytes - held_bytes))
    if giving is not None:
        giving.cancel()
    return Arm(gives_back=gives_back, beyond_mib=beyond)


def _run(gives_back: bool) -> Arm:
    return interruption.run(churn(gives_back))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.bench.freed_memory", description=__doc__)
    add_json_option(parser)
    arguments = parser.parse_args()
    at = conditions()
    with multiprocessing.get_context("spawn").Pool(1, initializer=end_with_parent(), maxtasksperchild=1) as pool:
        arms = pool.map(_run, (False, True), chunksize=1)
    for arm in arms:
        how = "given back" if arm.gives_back else "kept"
        print(f"freed memory {how}: {min(arm.beyond_mib)} to {max(arm.beyond_mib)} MiB beyond the bound of {CACHE_MIB} MiB")
    summary = {f"beyond_mib_{'given_back' if arm.gives_back else 'kept'}": max(arm.beyond_mib) for arm in arms}
    write_json({"summary": summary, "conditions": at, "arms": arms}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
