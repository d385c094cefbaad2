"""Long-term control on the paper's machines: answers that get short in the middle of a run, with roles that move and fixed ones.

`python -m load.simulate.roles [--json FILE] [--quick]`. The paper's lengths throughout. First answers of 1,024 tokens at a load
that suits 3 + 5 (prefill + decode), then answers of 128 at one that suits the best split for those, then the first ones again.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from rich.console import Console

from load.arrivals import poisson
from load.json_option import add_json_option, write_json
from load.report import Report, Slo, summarize, table
from load.simulate.cases import two_sites
from load.simulate.paper import DEPLOYMENTS, HOME, LENGTHS, OUTPUT_TOKENS, scenario
from load.simulate.policies import make_roles
from load.simulate.scenario import MovableWorkers
from load.simulate.world import simulate
from prfaas.capacity.lengths import quantile_midpoints
from prfaas.planner.solver import solve_two_sites
from prfaas.process import interruption
from prfaas.replay.arrival import Arrival

SHORT_OUTPUT_TOKENS = 128
LOAD = 0.75
"""Load, as a share of what the equations give for the best split."""
SLO = Slo(ttft_s=30.0, tpot_s=1.1 / 40)
EVERY_S, AWAY_S = 60.0, 30.0
LENGTHS_SAMPLE = quantile_midpoints(LENGTHS, 1024)


class Phase(NamedTuple):
    name: str
    output_tokens: int
    rate_req_s: float
    n_prefill: int
    """Prefill workers of the best split for the phase."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    phases: dict[str, Report]
    role_changes: list[tuple[float, str, str]]


def phases(load: float = LOAD) -> list[Phase]:
    found = []
    for name, output_tokens in (("first", OUTPUT_TOKENS), ("then", SHORT_OUTPUT_TOKENS), ("again", OUTPUT_TOKENS)):
        best = solve_two_sites(two_sites(LENGTHS_SAMPLE, output_tokens))
        found.append(Phase(name, output_tokens, load * best.throughput_req_s, best.n_prefill))
    return found


def arrivals_of(found: Sequence[Phase], phase_s: float, seed: int) -> list[Arrival]:
    arrivals = []
    for index, phase in enumerate(found):
        of_phase = poisson(
            LENGTHS, rate_req_s=phase.rate_req_s, duration_s=phase_s, output_tokens=phase.output_tokens, seed=seed + index
        )
        arrivals += [each._replace(arrival_s=each.arrival_s + index * phase_s) for each in of_phase]
    return arrivals


def run(n_prefill: int, movable: bool, found: Sequence[Phase], phase_s: float, seed: int = 1) -> Run:
    """The scenario that begins with this split, under the re-solved threshold."""
    deployment = DEPLOYMENTS["threshold"]
    total = deployment.n_prefill + deployment.n_decode
    deployment = deployment._replace(n_prefill=n_prefill, n_decode=total - n_prefill)
    keys = deployment.keys | {"resolve-every-s": 30.0, "roles-every-s": EVERY_S, "roles-drain-s": 300.0}
    described = scenario(deployment, arrivals_of(found, phase_s, seed), keys=keys)
    if movable:
        workers = MovableWorkers(controller=lambda fleet: make_roles(keys, fleet), away_s=AWAY_S)
        described = msgspec.structs.replace(described, pd=[msgspec.structs.replace(described.pd[0], movable=workers)])
    result = simulate(described)
    return Run(
        phases={
            phase.name: summarize(result.records[HOME], SLO, index * phase_s, (index + 1) * phase_s)
            for index, phase in enumerate(found)
        },
        role_changes=result.role_changes[HOME],
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.simulate.roles", description=__doc__)
    add_json_option(parser)
    parser.add_argument("--quick", action="store_true", help="shorter phases")
    arguments = parser.parse_args()
    phase_s = 1800.0 if arguments.quick else 3600.0
    found = phases()
    runs: dict[str, Run] = {}
    for n_prefill in sorted({phase.n_prefill for phase in found}):
        runs[f"{n_prefill} + {8 - n_prefill}, fixed"] = run(n_prefill, False, found, phase_s)
    first = found[0].n_prefill
    runs[f"from {first} + {8 - first}, moving"] = run(first, True, found, phase_s)
    console = Console(width=150)
    for phase in found:
        best = f"best split {phase.n_prefill} + {8 - phase.n_prefill}"
        title = f"{phase.name}: answers of {phase.output_tokens} tokens, {phase.rate_req_s:.2f} req/s, {best}"
        console.print(table({name: at.phases[phase.name] for name, at in runs.items()}, title))
    for at_s, worker, role in runs[f"from {first} + {8 - first}, moving"].role_changes:
        console.print(f"{at_s:7.0f} s: {worker} is a {role} worker")
    write_json(runs, arguments.json)


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
