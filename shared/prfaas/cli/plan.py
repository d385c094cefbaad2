"""Plan a deployment: threshold, roles, throughput, egress, and whether offloading pays.

Reads a deployment file (TOML: [traffic], [slo], [[site]], [[link]], [[profile]]), or a case that comes with the project:
`paper` is the case study of arXiv 2604.15039, printed beside the paper's Table 6; `dense` the same with a model whose
every layer has full attention. `prfaas plan --case dense --show` prints a deployment file to start from.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from prfaas.capacity.profiles import ProfileError
from prfaas.cli import UsageError
from prfaas.cli.paper_case import paper_comparison, paper_json
from prfaas.cli.plan_plot import plot_plan
from prfaas.cli.tables import format_table
from prfaas.planner.deployment import CASES, DeploymentError, Loaded, load_deployment, read_deployment
from prfaas.planner.network import PlanError
from prfaas.planner.report import Report, report
from prfaas.traces import TraceError

PAPER = "paper"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cases = sorted(path.stem for path in CASES.glob("*.toml"))
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("file", nargs="?", type=Path, help="deployment file")
    what.add_argument("--case", choices=cases, help="a case that comes with the project")
    parser.add_argument("--json", action="store_true", help="print JSON for programs instead of tables")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw throughput over t and over N_p into FILE (.svg or .png)")
    parser.add_argument("--show", action="store_true", help="print the case's deployment file and do nothing else")


def run(arguments: argparse.Namespace) -> int:
    path = CASES / f"{arguments.case}.toml" if arguments.case else arguments.file
    try:
        if arguments.show:
            print(read_deployment(path), end="")
            return 0
        loaded = load_deployment(path)
        with _stdout_is_ours():
            found = report(loaded)
    except (DeploymentError, ProfileError, TraceError, PlanError) as error:
        raise UsageError(str(error)) from error
    if arguments.plot:
        plot_plan(loaded, found, arguments.plot)
    if arguments.json:
        extra = paper_json(loaded) if arguments.case == PAPER else {}
        encoded = msgspec.json.encode({**msgspec.to_builtins(found), **extra})
        sys.stdout.buffer.write(msgspec.json.format(encoded, indent=2) + b"\n")
        sys.stdout.buffer.flush()
        return 0
    print(describe(loaded, found))
    if arguments.case == PAPER:
        print(paper_comparison(loaded))
    return 0


@contextlib.contextmanager
def _stdout_is_ours() -> Iterator[None]:
    """Sends prints of HiGHS, which it makes below Python, to stderr: they would end up in the middle of the JSON."""
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(ours, 1)
        os.close(ours)


def describe(loaded: Loaded, found: Report) -> str:
    parts = [_headline(loaded, found), _beyond(found), _sites(loaded, found), _links(found)]
    if found.arms:
        parts.append(_arms(found) + "\n" + _mean_time(found))
    ratios = {
        "pd sites alone": found.ratio_local_only,
        "pd instances for the same money": found.ratio_equal_cost,
        "as many instances, all pd": found.ratio_homogeneous,
        "all prefill offloaded": found.ratio_naive,
        "split by capacity, blind to length": found.ratio_balanced,
    }
    parts.append(
        "Throughput over: " + "; ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items() if ratio is not None) + "."
    )
    parts.append(f"Does offloading pay? {found.verdict[0].upper()}{found.verdict[1:]}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline(loaded: Loaded, found: Report) -> str:
    slo = loaded.deployment.slo
    mean = loaded.lengths.mean_tokens
    lines = [f"Traffic: {mean:,.0f} uncached input tokens and {loaded.output_tokens:,.0f} output tokens in the mean."]
    if not found.offloaded_share:
        lines.append("Offload nothing.")
    elif found.threshold_tokens is not None:
        lines.append(
            f"Offload what has more than {found.threshold_tokens:,.0f} uncached tokens: {found.offloaded_share:.1%} of requests."
        )
    else:
        lines.append(f"Offload {found.offloaded_share:.1%} of requests, each pd site above its own threshold.")
    lines.append(
        f"Throughput {found.throughput_req_s:.2f} req/s; {_binds(found.binds)}; egress {found.egress_gbit_s:.1f} Gbit/s."
    )
    lines.append(f"TTFT mean {found.ttft_mean_s:.2f} s, P90 {found.ttft_p90_s:.2f} s: prefill alone, no queue, no transfer.")
    if slo.ttft_p90_s is not None:
        lines.append(f"The SLO of P90 TTFT {slo.ttft_p90_s:g} s is {'kept' if found.meets_slo else 'NOT kept'}.")
    return "\n".join(lines)


def _beyond(found: Report) -> str:
    lines = [
        f"Profile {each.profile} ({', '.join(each.sites)}) ends at {each.last_tokens:,} tokens. Requests of up to "
        f"{each.longest_tokens:,.0f} tokens, {each.times:.1f} times as long, are read off its extended line: "
        f"{each.request_share:.1%} of all requests lie beyond it, and take longer than this if the curve bends upward."
        for each in found.extrapolated
    ]
    bound = found.throughput_bound_req_s
    if bound is not None and bound > found.throughput_req_s * 1.001:
        lines.append(f"The solver's time was up: a better plan may exist, of at most {bound:.2f} req/s.")
    return "\n".join(lines)


def _sites(loaded: Loaded, found: Report) -> str:
    rows = [["site", "kind", "profile", "prefill", "decode", "prefill busy", "decode busy", "threshold"]]
    for site in found.sites:
        rows.append(
            [
                site.site,
                site.kind,
                loaded.profiles[site.site].name,
                str(site.n_prefill),
                str(site.n_decode) if site.kind == "pd" else "-",
                f"{site.prefill_utilisation:.0%}",
                "-" if site.decode_utilisation is None else f"{site.decode_utilisation:.0%}",
                "-" if site.threshold_tokens is None else f"{site.threshold_tokens:,.0f}",
            ]
        )
    return format_table(rows)


def _links(found: Report) -> str:
    rows = [["link", "Gbit/s", "egress Gbit/s", "used"]]
    for link in found.links:
        used = f"{link.egress_gbit_s / link.gbit_s:.0%}" if link.gbit_s else "-"
        rows.append([f"{link.source} -> {link.destination}", f"{link.gbit_s:g}", f"{link.egress_gbit_s:.2f}", used])
    return format_table(rows) if found.links else ""


def _arms(found: Report) -> str:
    rows = [["", "N_prfaas/N_p/N_d", "Theta_prfaas", "Theta_pd-p", "Theta_pd-d", "req/s", "TTFT mean", "P90", "binds"]]
    for name, at in found.arms.items():
        rows.append(
            [
                name,
                f"{at.n_prfaas}/{at.n_prefill}/{at.n_decode}",
                f"{at.prfaas_req_s:.2f}",
                f"{at.pd_prefill_req_s:.2f}",
                f"{at.pd_decode_req_s:.2f}",
                f"{at.throughput_req_s:.2f}",
                f"{at.ttft_mean_s:.2f}",
                f"{at.ttft_p90_s:.2f}",
                ", ".join(at.binds),
            ]
        )
    return format_table(rows)


def _binds(stages: Sequence[str]) -> str:
    return f"{' and '.join(stages)} bind" if len(stages) > 1 else f"{stages[0] if stages else 'nothing'} binds"


def _mean_time(found: Report) -> str:
    assert found.mean_time is not None
    rates = found.mean_time._asdict()
    return (
        "req/s with the mean of T over all lengths, as a queue feels it, instead of T at the mean length: "
        + ", ".join(f"{name} {rates[name]:.2f}" for name in found.arms)
        + "."
    )
