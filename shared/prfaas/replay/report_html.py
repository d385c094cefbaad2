"""The report of one run."""

from collections.abc import Sequence
from pathlib import Path

from prfaas.replay import charts
from prfaas.replay.compare import comparison_page
from prfaas.replay.figures import count, milliseconds, moment, rate, seconds, share
from prfaas.replay.page_parts import Cell, Page, Table, Tile, row, write_page
from prfaas.replay.results import Run, Setup
from prfaas.replay.service_charts import service_charts
from prfaas.replay.summary import Distribution, Summary

SLOWEST = 15
FOOTER = (
    "All latencies count from the moment at which a request was due, not from its sending, so that a client that falls behind "
    "cannot hide waiting (no coordinated omission). They are of the requests that were due between the warm-up and the end and "
    "were answered in full. Percentiles lie on the line between the two nearest values. TPOT is (last token - first token) / "
    "(tokens - 1) of each answer, which AIPerf and GuideLLM call inter-token latency."
)


def write_report(runs: Sequence[Run], path: Path) -> None:
    """Writes one run's page, or a comparison of several. Raises ResultError."""
    write_page(run_page(runs[0]) if len(runs) == 1 else comparison_page(runs), path)


def run_page(run: Run) -> Page:
    setup = run.setup
    made = [
        *charts.latency_charts([run], [setup.title]),
        charts.rate_chart(run),
        charts.ttft_chart(run),
        charts.site_chart(run),
        charts.length_chart(run),
        charts.outcome_chart(run),
        charts.hit_chart(run),
        *service_charts(run),
    ]
    tables_last = [slowest_table(run), setup_table(setup, run)]
    if run.summary.errors:
        tables_last.insert(0, errors_table(run))
    return Page(
        title=setup.title,
        subtitle=f"{setup.model} at {setup.target}, {setup.endpoint}, {moment(setup.started_at)}",
        verdict=verdict(run),
        notes=setup.notes,
        tiles=tiles(run.summary, setup.slo.share),
        tables_first=[figures_table(run.summary)],
        charts=[chart for chart in made if chart is not None],
        tables_last=tables_last,
        command=setup.command,
        footer=FOOTER,
    )


def verdict(run: Run) -> str:
    """Returns what happened in two or three sentences."""
    summary = run.summary
    found = [
        f"{count(summary.request_count)} requests were due in {summary.benchmark_duration_s:.0f} s "
        f"({rate(summary.offered_request_throughput)}); {rate(summary.request_throughput)} were answered in full, "
        f"{count(summary.error_request_count)} failed."
    ]
    if run.interrupted:
        found.insert(0, "The run was ended before its time.")
    if summary.good_request_fraction is not None:
        slo = run.setup.slo
        limits = {"TTFT": slo.ttft_s, "TPOT": slo.tpot_s, "latency": slo.e2e_s}
        named = " and ".join(f"{name} {seconds(limit)}" for name, limit in limits.items() if limit is not None)
        kept = summary.good_request_fraction >= slo.share
        found.append(
            f"{share(summary.good_request_fraction)} kept the SLO of {named}; "
            f"{'that is enough' if kept else 'too few'} for the {share(slo.share)} that it asks for."
        )
    if summary.prefill_sites:
        whole = sum(summary.prefill_sites.values())
        found.append("Prefilled: " + ", ".join(f"{share(n / whole)} {site}" for site, n in summary.prefill_sites.items()) + ".")
    return " ".join(found)


def tiles(summary: Summary, slo_share: float) -> list[Tile]:
    found = [Tile(rate(summary.request_throughput), "answered")]
    if summary.goodput is not None:
        kept = (summary.good_request_fraction or 0.0) >= slo_share
        found.append(Tile(rate(summary.goodput), "goodput", "good" if kept else "bad"))
    for field, label, show in (
        ("time_to_first_token_s", "TTFT", seconds),
        ("inter_token_latency_s", "TPOT", milliseconds),
        ("request_latency_s", "latency", seconds),
    ):
        found_of: Distribution | None = getattr(summary, field)
        if found_of is not None:
            found += [Tile(show(found_of.p50), f"{label} P50"), Tile(show(found_of.p99), f"{label} P99")]
    found.append(Tile(f"{summary.output_token_throughput:,.0f}/s", "output tokens"))
    found.append(Tile(share(summary.cache_read_input_fraction), "input tokens cached"))
    errors = summary.error_request_count
    found.append(Tile(count(errors), "errors", "bad" if errors else ""))
    return found


def figures_table(summary: Summary) -> Table:
    """Distributions under the names that AIPerf and GuideLLM use."""
    rows = []
    for label, field, show in (
        ("time_to_first_token", "time_to_first_token_s", seconds),
        ("inter_token_latency (TPOT)", "inter_token_latency_s", milliseconds),
        ("request_latency", "request_latency_s", seconds),
        ("max_inter_chunk_latency", "max_inter_chunk_latency_s", milliseconds),
        ("input_sequence_length", "input_sequence_length", count),
        ("uncached_input_length", "uncached_input_length", count),
        ("output_sequence_length", "output_sequence_length", count),
        ("send_lag (this client)", "send_lag_s", milliseconds),
    ):
        found: Distribution | None = getattr(summary, field)
        if found is not None:
            values = (found.mean, found.std, found.min, found.p50, found.p90, found.p95, found.p99, found.max)
            rows.append(row(label, *(show(value) for value in values), count(found.count)))
    return Table("Figures", ("", "mean", "std", "min", "P50", "P90", "P95", "P99", "max", "n"), rows)


def errors_table(run: Run) -> Table:
    rows = []
    for code, number in run.summary.errors.items():
        example = next(each.message for each in run.measured if each.error == code)
        rows.append([Cell(code), Cell(count(number)), Cell(example or "-", "wrap dim")])
    return Table("Errors", ("code", "requests", "the first one's message"), rows)


def slowest_table(run: Run) -> Table:
    answered = [each for each in run.measured if not each.error and each.ttft_s is not None]
    slowest = sorted(answered, key=lambda each: each.ttft_s or 0.0, reverse=True)[:SLOWEST]
    rows = [
        [
            *row(
                f"{each.index}",
                f"{each.due_s:.1f} s",
                seconds(each.ttft_s),
                seconds(each.e2e_s),
                count(each.input_tokens),
                count(each.uncached_tokens),
                count(each.output_tokens),
            ),
            Cell(each.prefill_site or "-", "text"),
            Cell(each.outcome or "-", "text"),
            Cell(each.trace_id or each.request_id or "-", "text mono"),
        ]
        for each in slowest
    ]
    numbers = ("request", "due", "TTFT", "latency", "input", "uncached", "output")
    header = (*numbers, "prefilled at", "outcome", "trace id or request id")
    return Table("Slowest requests", header, rows, "By time to first token.")


def setup_table(setup: Setup, run: Run) -> Table:
    """Lists workload, target, versions and seeds."""
    return Table("Set-up", (), [[Cell(name), Cell(value, "wrap")] for name, value in described_setup(setup, run).items()])


def described_setup(setup: Setup, run: Run) -> dict[str, str]:
    found = {"target": f"{setup.target}, model {setup.model}, {setup.endpoint}", "prompts": setup.prompts}
    workload, survey = setup.workload, setup.survey
    if workload is not None:
        found["workload"] = (
            f"synthetic, {workload.synthetic.lengths}, {workload.synthetic.output_tokens} output tokens, "
            f"{workload.synthetic.rate_req_s:g}/s, CV {workload.synthetic.arrivals_cv:g}"
            if workload.synthetic is not None
            else f"{workload.path} ({workload.format})"
        )
        shape = workload.shape
        found["shape"] = (
            f"speed {shape.speed:.4g}, lengths / {shape.divide_lengths}, longest prompt {shape.max_input_tokens or 'any'}, "
            f"arrivals spread over {shape.spread_arrivals_s or 0:g} s, duration {shape.duration_s or 'all of it'}, "
            + (f"{workload.users} sessions at a time" if workload.users else "each at its stamp")
        )
        found["seed"] = str(shape.seed)
    if survey is not None:
        found["size"] = (
            f"{survey.requests:,} requests, {survey.sessions:,} sessions, {survey.input_tokens:,} input and "
            f"{survey.output_tokens:,} output tokens in {survey.span_s:.0f} s"
        )
    found["window"] = f"{setup.warm_up_s:g} s to {run.end_s:.1f} s"
    found["versions"] = ", ".join(f"{name} {number}" for name, number in setup.versions.items())
    found["machine"] = ", ".join(f"{name}: {value}" for name, value in setup.machine.items())
    client = run.client
    found["this client"] = (
        f"{client.processes} processes, {client.cpu_cores:.2f} cores, at most {client.peak_rss_bytes / 2**20:.0f} MiB each"
    )
    return found
