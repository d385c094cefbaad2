"""`python -m load.worlds [--seed N] [--worlds N] [--jobs N] [--mutations N] [--json FILE]`: worlds, and what breaks.

Runs the worlds of consecutive seeds. With `--mutations N` searches for each hand-made bug in the first N seeds after that.
Exits with 1 on a violation, and where a bug is not found.
"""

import argparse
import sys
from typing import Any

import msgspec

from load.json_option import add_json_option, write_json
from load.machine import Conditions, conditions
from load.worlds.mutations import MUTATIONS
from load.worlds.run import Found, Runs, find, run_world, run_worlds, silence
from prfaas.process import interruption


class Results(msgspec.Struct, frozen=True, kw_only=True):
    conditions: Conditions
    runs: Runs
    mutations: list[Found]
    summary: dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.worlds", description=__doc__)
    add_json_option(parser)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--worlds", type=int, default=1, help="number of worlds")
    parser.add_argument("--jobs", type=int, default=1, help="processes that run worlds")
    parser.add_argument("--mutations", type=int, default=0, metavar="N", help="search each hand-made bug in the first N seeds")
    arguments = parser.parse_args()
    silence()
    at = conditions("msgspec", "xxhash")
    runs = run_worlds(arguments.seed, arguments.worlds, jobs=arguments.jobs, on_chunk=_print_violations)
    if arguments.worlds == 1:
        _print_world(arguments.seed)
    found = [_searched(mutation, arguments.mutations) for mutation in MUTATIONS if arguments.mutations]
    summary = {
        "worlds": runs.worlds,
        "violations": len(runs.violations),
        "worlds_per_minute": round(60 * runs.worlds / runs.took_s, 1),
        "worlds_per_cpu_minute": round(60 * runs.worlds / runs.cpu_s, 1),
        "mutations": len(found),
        "mutations_found": sum(each.seed is not None for each in found),
    }
    write_json(Results(conditions=at, runs=runs, mutations=found, summary=summary), arguments.json)
    print(f"requests {runs.requests}, events {runs.steps}; " + ", ".join(f"{name} {value:g}" for name, value in summary.items()))
    return int(bool(runs.violations) or summary["mutations"] != summary["mutations_found"])


def _print_violations(chunk: Runs) -> None:
    for violation in chunk.violations:
        print(f"seed {violation.seed}: {violation.what[0]}\n  {violation.reproduction}", flush=True)


def _searched(mutation: Any, worlds: int) -> Found:
    found = find(mutation, range(worlds))
    where = "not found" if found.seed is None else f"seed {found.seed}: {found.what}"
    print(f"{found.mutation} ({found.worlds} worlds): {where}", flush=True)
    return found


def _print_world(seed: int) -> None:
    world = run_world(seed)
    plan = world.plan
    print(f"{plan.profile}, policy {plan.policy}, sites pd {' '.join(plan.remotes)}")
    for fault in plan.faults:
        print(f"  {fault.at_s:6.2f} s {fault.kind} {fault.target} for {fault.for_s:.2f} s")
    for client in world.clients:
        print(
            f"  {client.asked_at_s:6.2f} s {client.plan.name} {client.plan.poison}: {client.ends}, {len(client.token_ids)} tokens"
        )
    for violation in world.violations:
        print(f"  violated: {violation}")


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
