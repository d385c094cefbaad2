"""`python -m load.simulate.compare [--case NAME ...] [--load SHARE] [--json FILE]`: all registered policies side by side at one
load, first come first served. `load.simulate.curve` compares them over loads, and with the site's queue."""

import argparse
import sys

import msgspec
from rich.console import Console
from rich.table import Table

from load.json_option import add_json_option, write_json
from load.report import Report, Slo, summarize
from load.simulate.cases import MACHINES, Case, cases
from load.simulate.paper import scenario
from load.simulate.policies import POLICIES, scheduler_keys
from load.simulate.scenario import Timing
from load.simulate.world import SimResult, simulate
from prfaas.process import interruption

SLO = Slo(ttft_s=10.0, tpot_s=1.1 / 40)
WARM_UP = 0.1
TIMING = Timing(ttft_deadline_s=120.0)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    case: str
    policy: str
    threshold_tokens: int
    report: Report
    egress_peak_gbit_s: float
    """Bytes of the busiest second."""
    cached_share: dict[str, float]
    """Share of all prompt tokens that a prefill worker of the site (or, under `<site> decode`, a decode worker) had cached."""


def simulated(case: Case, policy: str, threshold_tokens: int, *, caches_announced: bool = True) -> SimResult:
    """One policy in one case, on the paper's machines."""
    return simulate(
        scenario(
            MACHINES,
            case.arrivals,
            keys=scheduler_keys(policy, threshold_tokens, SLO.ttft_s),
            link=case.link,
            timing=TIMING,
            cache_bytes=case.cache_bytes,
            block_tokens=case.block_tokens,
            caches_announced=caches_announced,
        )
    )


def run(case: Case, name: str) -> Outcome:
    result = simulated(case, name, case.threshold_tokens)
    prompt_tokens = sum(arrival.prompt_tokens for arrival in case.arrivals)
    (records,) = result.records.values()
    peaks = [max(seconds.values(), default=0.0) for seconds in result.egress_bytes.values()]
    return Outcome(
        case=case.name,
        policy=name,
        threshold_tokens=case.threshold_tokens,
        report=summarize(records, SLO, WARM_UP * case.duration_s, case.duration_s),
        egress_peak_gbit_s=max(peaks, default=0.0) * 8 / 1e9,
        cached_share={place: tokens / prompt_tokens for place, tokens in result.cached_tokens.items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.simulate.compare", description=__doc__)
    parser.add_argument("--case", action="append", choices=sorted(cases(1.0)), help="may be given several times; all by default")
    parser.add_argument("--load", type=float, default=0.9, help="of what the paper's policy could carry without queues")
    parser.add_argument("--seconds", type=float, default=1800.0, help="of each run")
    parser.add_argument("--seed", type=int, default=1)
    add_json_option(parser)
    arguments = parser.parse_args()
    say = Console(width=140)
    outcomes: list[Outcome] = []
    for name, make in cases(arguments.load, duration_s=arguments.seconds, seed=arguments.seed).items():
        if arguments.case and name not in arguments.case:
            continue
        case = make()
        found = [run(case, policy) for policy in POLICIES]
        outcomes += found
        say.print(_table(case, found))
    write_json(outcomes, arguments.json)


def _table(case: Case, found: list[Outcome]) -> Table:
    reference = next(at.report.goodput_req_s for at in found if at.policy == "threshold")
    table = Table(title=f"{case.name}: {case.what}; {len(case.arrivals)} requests, t = {case.threshold_tokens}")
    for column in (
        "policy",
        "offered/s",
        "in SLO",
        "goodput/s",
        "to threshold",
        "TTFT mean",
        "P50",
        "P90",
        "P99",
        "egress peak",
        "cached",
        "sites",
    ):
        table.add_column(column, justify="left" if column in ("policy", "sites") else "right")
    for at in found:
        report = at.report
        ttft = report.ttft
        table.add_row(
            at.policy,
            f"{report.offered_req_s:.2f}",
            f"{report.kept_share:.1%}",
            f"{report.goodput_req_s:.2f}",
            f"{report.goodput_req_s / reference:.2f}" if reference else "-",
            *([f"{value:.2f}" for value in (ttft.mean_s, ttft.p50_s, ttft.p90_s, ttft.p99_s)] if ttft else ["-"] * 4),
            f"{at.egress_peak_gbit_s:.1f} Gbit/s",
            f"{sum(share for place, share in at.cached_share.items() if 'decode' not in place):.0%}",
            ", ".join(f"{site} {count}" for site, count in sorted(report.prefill_sites.items())),
        )
    return table


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
