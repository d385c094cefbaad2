"""Plot of throughput over the threshold and over N_p, as in the paper's Figure 5."""

from pathlib import Path

from prfaas.cli import UsageError
from prfaas.planner.deployment import Loaded
from prfaas.planner.report import Report
from prfaas.planner.solver import Stage, at_threshold, best_threshold, prefill_counts

POINTS = 300
LABELS = {
    Stage.PRFAAS_COMPUTE: "prfaas bound",
    Stage.LINK: "link bound",
    Stage.PD_PREFILL: "pd prefill bound",
    Stage.PD_DECODE: "pd decode bound",
}


def plot_plan(loaded: Loaded, found: Report, path: Path) -> None:
    """Raises UsageError: matplotlib is absent, the file cannot be written, or the plan has more than two sites."""
    if path.suffix not in (".svg", ".png"):
        raise UsageError(f"--plot writes .svg or .png, not {path.name}.")
    if not loaded.deployment.is_pair or found.threshold_tokens is None:
        raise UsageError("--plot draws plans of one prfaas and one pd site only.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("--plot needs matplotlib, which the `lab` extra installs: pip install 'prfaas[lab]'.") from error

    case = loaded.two_sites()
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    over_t, over_n = figure.subplots(1, 2)

    low, high = max(case.lengths.quantile(0.02), 1.0), max(case.lengths.quantile(0.98), found.threshold_tokens * 1.2)
    thresholds = [low + (high - low) * step / POINTS for step in range(POINTS + 1)]
    at = [at_threshold(case, tokens, found.n_prefill) for tokens in thresholds]
    top = 2 * found.throughput_req_s
    for stage, label in LABELS.items():
        limits = [min(one.limits_req_s[stage], top) for one in at]
        if min(limits) < top:
            over_t.plot(thresholds, limits, linewidth=1, linestyle="--", label=label)
    over_t.plot(thresholds, [one.throughput_req_s for one in at], color="black", label="throughput")
    over_t.plot([found.threshold_tokens], [found.throughput_req_s], "*", markersize=14, color="black")
    over_t.set(xlabel="threshold t (uncached tokens)", ylabel="req/s", ylim=(0, top))
    over_t.set_title(f"N_p = {found.n_prefill}, N_d = {found.n_decode}")
    over_t.legend(fontsize="small")

    counts = list(prefill_counts(case.n_pd))
    over_n.plot(
        counts, [best_threshold(case, n).throughput_req_s for n in counts], "o-", color="black", label="t solved for each N_p"
    )
    fixed = [at_threshold(case, found.threshold_tokens, n).throughput_req_s for n in counts]
    over_n.plot(counts, fixed, "s--", linewidth=1, label=f"t = {found.threshold_tokens:,.0f}")
    over_n.plot([found.n_prefill], [found.throughput_req_s], "*", markersize=14, color="black")
    over_n.set(xlabel=f"N_p of {case.n_pd} pd instances", ylabel="req/s", xticks=counts)
    over_n.set_ylim(bottom=0)
    over_n.legend(fontsize="small")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{str(path)!r} cannot be written: {getattr(error, 'strerror', None) or error}.") from error
