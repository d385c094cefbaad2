"""`python -m load.simulate.tenants [--json FILE]`: what each tenant gets of a site, over the load.

The same arrivals in each row, on the paper's machines with our policy and queue; only whose they are differs. Alike: each request
is of any tenant, with equal chances. Flood: three tenants ask for a tenth of what the paper's threshold carries each, and one for
all that is left. One tenant: the queue is told of one only, and the rows beneath it count what the others would have got.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from load.json_option import add_json_option, write_json
from load.report import percentile
from load.simulate.arms import ARMS, OURS, simulated
from load.simulate.cases import cases
from load.simulate.curve_points import SLO, WARM_UP
from prfaas.process import interruption
from prfaas.replay.record import Record

LOADS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
QUIET, FLOOD = ("quiet 0", "quiet 1", "quiet 2"), "flood"
QUIET_LOAD = 0.1
"""Load that each quiet tenant brings."""
ONE_TENANT = "one tenant"
MIXES = ("2 alike", "8 alike", FLOOD)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant, or several that ask alike, in one run."""

    told: str
    """Mix of tenants that the queue is told of."""
    who: str
    load: float
    seed: int
    requests: int
    kept_share: float
    """Share within the objectives."""
    ttft_p50_s: float
    ttft_p90_s: float


def mixed(mix: str, load: float, requests: int, seed: int) -> list[str]:
    """Returns the tenant of each request."""
    source = random.Random(f"{mix} {seed}")
    if mix == FLOOD:
        weights = [QUIET_LOAD] * len(QUIET) + [load - QUIET_LOAD * len(QUIET)]
        return source.choices((*QUIET, FLOOD), weights, k=requests)
    names = [f"t{index}" for index in range(int(mix.split()[0]))]
    return source.choices(names, k=requests)


def measure(load: float, seed: int, duration_s: float) -> Iterator[Outcome]:
    case = cases(load, duration_s=duration_s, seed=seed)["steady"]()
    mixes = {mix: mixed(mix, load, len(case.arrivals), seed) for mix in MIXES}
    for told in (ONE_TENANT, *MIXES):
        (records,) = simulated(case, ARMS[OURS], tenants=mixes.get(told, ())).records.values()
        due = [index for index, record in enumerate(records) if record.arrival.arrival_s >= WARM_UP * duration_s]

        def outcome(who: str, of: Sequence[Record]) -> Outcome:
            ttfts_s = [record.ttft_s for record in of if not record.error and record.ttft_s is not None] or [0.0]
            return Outcome(
                told=told,  # noqa: B023
                who=who,
                load=load,
                seed=seed,
                requests=len(of),
                kept_share=sum(map(SLO.kept, of)) / max(1, len(of)),
                ttft_p50_s=percentile(ttfts_s, 0.5),
                ttft_p90_s=percentile(ttfts_s, 0.9),
            )

        yield outcome("all", [records[index] for index in due])
        for mix in MIXES if told == ONE_TENANT else (told,):
            of_tenant = {name: [records[index] for index in due if mixes[mix][index] == name] for name in sorted(set(mixes[mix]))}
            if mix == FLOOD:
                yield outcome("quiet", [record for name in QUIET for record in of_tenant[name]])
                yield outcome(FLOOD, of_tenant[FLOOD])
                continue
            found = sorted((outcome(mix, of) for of in of_tenant.values()), key=lambda each: each.kept_share)
            yield msgspec.structs.replace(found[0], who=f"{mix}, least")
            yield msgspec.structs.replace(found[-1], who=f"{mix}, most")


def table(outcomes: Sequence[Outcome], field: str, title: str) -> Table:
    """Means over the seeds: a row per tenant, a column per load."""
    loads = sorted({each.load for each in outcomes})
    out = Table(title=title)
    for column in ("the queue knows", "of", *(f"{load:g}" for load in loads)):
        out.add_column(column, justify="left" if column in ("the queue knows", "of") else "right")
    for told, who in dict.fromkeys((each.told, each.who) for each in outcomes):
        cells = []
        for load in loads:
            values = [getattr(each, field) for each in outcomes if (each.told, each.who, each.load) == (told, who, load)]
            mean = sum(values) / len(values)
            cells.append(f"{mean:.1%}" if field == "kept_share" else f"{mean:.2f}")
        out.add_row(told, who, *cells)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.simulate.tenants", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--load", action="append", type=float, help="may be given several times")
    add_json_option(parser)
    asked = parser.parse_args()
    loads = tuple(asked.load or LOADS)
    if any(load <= QUIET_LOAD * len(QUIET) for load in loads):
        parser.error(f"a load must be above {QUIET_LOAD * len(QUIET):g}, which the quiet tenants bring")
    say, started_s = Console(width=150), time.process_time()
    outcomes = [each for seed in range(1, asked.seeds + 1) for load in loads for each in measure(load, seed, asked.seconds)]
    say.print(table(outcomes, "kept_share", f"share within {SLO.ttft_s:g} s and {SLO.tpot_s * 1000:g} ms per token"))
    say.print(table(outcomes, "ttft_p90_s", "P90 of TTFT of what was answered, s"))
    say.print(f"{asked.seeds} seeds of {asked.seconds:g} s each, in {time.process_time() - started_s:.0f} s of CPU time")
    write_json({"seeds": asked.seeds, "duration_s": asked.seconds, "outcomes": outcomes}, asked.json)


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
