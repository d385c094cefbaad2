"""`python -m load.simulate.scale [--nodes N] [--sites S]`: the paper's proportions at the size of a fleet, policies side by side.

Half of the sites prefill only. Each of them serves all pd sites, so a scheduler shares its remote queues with others that it does
not hear of.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from load.arrivals import poisson
from load.report import Report, Slo, summarize
from load.simulate.paper import (
    DEPLOYMENTS,
    H20,
    H200,
    LENGTHS,
    LINK_BYTES_PER_S,
    OUTPUT_TOKENS,
    SLOTS,
    THRESHOLD_TOKENS,
    mean_work_capacity,
)
from load.simulate.policies import POLICIES, make_policy, scheduler_keys
from load.simulate.scenario import DecodePool, LinkSpec, PdSite, PrefillPool, PrfaasSite, Scenario, Timing
from load.simulate.world import simulate
from prfaas.process import interruption
from prfaas.replay.record import Record

UNIT = DEPLOYMENTS["threshold"]
UNIT_NODES = UNIT.n_prfaas + UNIT.n_prefill + UNIT.n_decode
SLO = Slo(ttft_s=10.0, tpot_s=1.1 / 40)
WARM_UP = 0.2


class Fleet(NamedTuple):
    """Number of the paper's units of 4 + 3 + 5, and of sites."""

    units: int
    pd_sites: int
    prfaas_sites: int

    @property
    def nodes(self) -> int:
        return self.units * UNIT_NODES


def fleet(nodes: int, sites: int) -> Fleet:
    """The largest fleet of at most `nodes`, in whole units, as many in each site as in the next. Raises ValueError."""
    pd_sites = sites // 2
    prfaas_sites = sites - pd_sites
    if pd_sites < 1:
        raise ValueError(f"a fleet needs a pd and a prfaas site, but {sites} were asked for.")
    units = nodes // UNIT_NODES // pd_sites * pd_sites
    if units * UNIT.n_prfaas < prfaas_sites or units < pd_sites:
        raise ValueError(f"{nodes} nodes are too few for {sites} sites.")
    return Fleet(units, pd_sites, prfaas_sites)


def fleet_scenario(fleet: Fleet, policy: str, *, load: float, duration_s: float, seed: int) -> Scenario:
    """`load`: of what the threshold carries without queues. Each link has its site's share of the paper's 100 Gbit/s per unit."""
    per_pd = fleet.units // fleet.pd_sites
    rate_req_s = load * mean_work_capacity(UNIT).req_s * per_pd
    keys = scheduler_keys(policy, THRESHOLD_TOKENS, SLO.ttft_s)
    pd = [
        PdSite(
            name=f"pd{index}",
            prefill=PrefillPool(profile=H20, workers=UNIT.n_prefill * per_pd),
            decode=DecodePool(profile=H20, workers=UNIT.n_decode * per_pd, slots=SLOTS),
            policy=lambda: make_policy(keys),
            arrivals=poisson(
                LENGTHS, rate_req_s=rate_req_s, duration_s=duration_s, output_tokens=OUTPUT_TOKENS, seed=seed + 2 * index
            ),
        )
        for index in range(fleet.pd_sites)
    ]
    link = LinkSpec(rates=((0.0, LINK_BYTES_PER_S * fleet.units / (fleet.pd_sites * fleet.prfaas_sites)),))
    workers = fleet.units * UNIT.n_prfaas
    prfaas = [
        PrfaasSite(
            name=f"prfaas{index}",
            prefill=PrefillPool(
                profile=H200,
                workers=workers * (index + 1) // fleet.prfaas_sites - workers * index // fleet.prfaas_sites,
            ),
            links={site.name: link for site in pd},
        )
        for index in range(fleet.prfaas_sites)
    ]
    return Scenario(pd=pd, prfaas=prfaas, timing=Timing(ttft_deadline_s=120.0), seed=seed)


def report_of(records: Mapping[str, list[Record]], duration_s: float) -> Report:
    return summarize([record for each in records.values() for record in each], SLO, WARM_UP * duration_s, duration_s)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.simulate.scale", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--load", type=float, default=0.9)
    parser.add_argument("--seconds", type=float, default=120.0, help="simulated")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="may be given several times; all by default")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    try:
        size = fleet(arguments.nodes, arguments.sites)
    except ValueError as error:
        parser.error(str(error))
    table = Table(title=f"{size.nodes} nodes, {size.pd_sites} pd and {size.prfaas_sites} prfaas sites, {arguments.load:.0%} load")
    for column in ("policy", "requests", "in SLO", "goodput/s", "TTFT mean", "P90", "P99", "offloaded", "took"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for policy in arguments.policy or POLICIES:
        started_at = time.monotonic()
        made = fleet_scenario(size, policy, load=arguments.load, duration_s=arguments.seconds, seed=arguments.seed)
        records = simulate(made).records
        report = report_of(records, arguments.seconds)
        whole = [record for each in records.values() for record in each if not record.error]
        offloaded = sum(record.prefill_site.startswith("prfaas") for record in whole) / max(1, len(whole))
        ttft = report.ttft
        table.add_row(
            policy,
            str(sum(len(each) for each in records.values())),
            f"{report.kept_share:.1%}",
            f"{report.goodput_req_s:.1f}",
            *([f"{value:.2f}" for value in (ttft.mean_s, ttft.p90_s, ttft.p99_s)] if ttft else ["-"] * 3),
            f"{offloaded:.1%}",
            f"{time.monotonic() - started_at:.0f} s",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
