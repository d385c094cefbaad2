"""`python -m load.simulate.agentic [--load SHARE] [--threshold TOKENS] [--json FILE]`: what decides where agents' prompts go.

Each policy twice on the same requests, with workers that have prefix caches: with a scheduler to which they are announced, and
with one to which they are not, which can only go by input length. A prompt is long above `--threshold` tokens; its rest is what
the pd site's best cache leaves of it to compute.
"""

import argparse
import sys

import msgspec
from rich.console import Console
from rich.table import Table

from load.json_option import add_json_option, write_json
from load.report import Report, summarize
from load.simulate.cases import Case, cases
from load.simulate.compare import SLO, WARM_UP, simulated
from load.simulate.paper import HOME
from prfaas.process import interruption

POLICIES = ("threshold", "priced")


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts of one kind."""

    requests: int
    offloaded: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    policy: str
    told: bool
    """True if the workers announce their caches to the scheduler."""
    threshold_tokens: int
    short: Kind
    long_short_rest: Kind
    """Long prompts whose uncached rest at the pd site is short."""
    long_long_rest: Kind
    cached_share: float
    """Share of all prompt tokens that prefill workers had cached."""
    decode_cached_share: float
    """Share of all prompt tokens that decode workers had cached: full layers are not shipped again."""
    egress_bytes: float
    report: Report


def run(case: Case, policy: str, threshold_tokens: int, *, told: bool) -> Outcome:
    result = simulated(case, policy, threshold_tokens, caches_announced=told)
    records = result.records[HOME]
    kinds: dict[str, list[bool]] = {"short": [], "long_short_rest": [], "long_long_rest": []}
    for record, cached_tokens in zip(records, result.home_cached_tokens[HOME], strict=True):
        tokens = record.arrival.prompt_tokens - 1
        rest = "long_short_rest" if tokens - cached_tokens <= threshold_tokens else "long_long_rest"
        kinds["short" if tokens <= threshold_tokens else rest].append(record.outcome == "offloaded")
    prompt_tokens = sum(arrival.prompt_tokens for arrival in case.arrivals)
    decode_tokens = result.cached_tokens[f"{HOME} decode"]
    return Outcome(
        policy=policy,
        told=told,
        threshold_tokens=threshold_tokens,
        cached_share=(sum(result.cached_tokens.values()) - decode_tokens) / prompt_tokens,
        decode_cached_share=decode_tokens / prompt_tokens,
        egress_bytes=sum(sum(seconds.values()) for seconds in result.egress_bytes.values()),
        report=summarize(records, SLO, WARM_UP * case.duration_s, case.duration_s),
        **{name: Kind(requests=len(each), offloaded=sum(each)) for name, each in kinds.items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m load.simulate.agentic", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--load", type=float, default=0.3, help="share of what could be carried if one cache kept everything")
    parser.add_argument("--threshold", type=int, default=19_400)
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--seed", type=int, default=1)
    add_json_option(parser)
    arguments = parser.parse_args()
    case = cases(arguments.load, duration_s=arguments.seconds, seed=arguments.seed)["agentic"]()
    outcomes = [run(case, policy, arguments.threshold, told=told) for policy in POLICIES for told in (True, False)]
    mean_tokens = sum(arrival.prompt_tokens for arrival in case.arrivals) / len(case.arrivals)
    table = Table(
        title=f"{len(case.arrivals)} requests of coding agents, {mean_tokens:,.0f} tokens in the mean; "
        f"long: above {arguments.threshold:,} tokens"
    )
    for column in ("policy", "goes by", "short", "long, short rest", "long, long rest", "cached", "at decode", "egress GB"):
        table.add_column(column, justify="left" if column in ("policy", "goes by") else "right")
    for column in ("in SLO", "TTFT mean", "P90"):
        table.add_column(column, justify="right")
    for at in outcomes:
        ttft = at.report.ttft
        table.add_row(
            at.policy,
            "rest" if at.told else "input",
            *(_offloaded(kind) for kind in (at.short, at.long_short_rest, at.long_long_rest)),
            f"{at.cached_share:.0%}",
            f"{at.decode_cached_share:.0%}",
            f"{at.egress_bytes / 1e9:,.0f}",
            f"{at.report.kept_share:.1%}",
            *([f"{ttft.mean_s:.2f}", f"{ttft.p90_s:.2f}"] if ttft else ["-"] * 2),
        )
    console = Console(width=150)
    console.print(table)
    console.print("Short, long: share offloaded, of so many requests.")
    write_json(outcomes, arguments.json)


def _offloaded(kind: Kind) -> str:
    return f"{kind.offloaded / kind.requests:.0%} of {kind.requests}" if kind.requests else "none"


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
