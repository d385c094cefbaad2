"""Figures against known values: percentiles, windows, goodput, and what a comparison says of equal and of different runs."""

import random
from pathlib import Path

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from prfaas.replay import bootstrap
from prfaas.replay.bootstrap import FIGURES, Ratio, figures_of_run
from prfaas.replay.charts import MAX_BINS, bin_edges
from prfaas.replay.compare import comparison_page, difference_table
from prfaas.replay.page_parts import render
from prfaas.replay.report_html import run_page
from prfaas.replay.results import ClientCost, ResultError, Run, Series, Setup, load_run, save_run
from prfaas.replay.rows import RequestRow, Slo, rows_of_lines
from prfaas.replay.summary import distribution, summarize
from prfaas.replay.workload import Workload


def ratios(base: Run, other: Run) -> list[Ratio | None]:
    """Takes fewer resamples than a report does."""
    return bootstrap.ratios(base, other, resamples=200)


def row(index: int, due_s: float, ttft_s: float, *, tokens: int = 11, tpot_s: float = 0.01, **more: object) -> RequestRow:
    first_s = due_s + ttft_s
    fields = {"sent_s": due_s, "first_s": first_s, "last_s": first_s + tpot_s * (tokens - 1), "output_tokens": tokens}
    return RequestRow(**({"index": index, "due_s": due_s, "input_tokens": 100} | fields | more))  # type: ignore[arg-type]


def made_run(rows: list[RequestRow], *, title: str = "a run", slo: Slo | None = None, end_s: float = 100.0) -> Run:
    slo = slo or Slo(ttft_s=1.0)
    setup = Setup(
        title=title,
        target="http://x",
        model="m",
        endpoint="completions",
        workload=None,
        survey=None,
        prompts="made",
        slo=slo,
        warm_up_s=0.0,
        started_at="2026-01-01T00:00:00.000000+00:00",
        command="prfaas replay",
        versions={},
        machine={},
    )
    return Run(
        setup=setup,
        end_s=end_s,
        interrupted=False,
        client=ClientCost(processes=2, cpu_cores=0.1, peak_rss_bytes=1),
        metrics=[],
        summary=summarize(rows, slo, 0.0, end_s),
        requests=rows,
    )


def drawn(seed: int, scale: float = 1.0, count: int = 400) -> list[RequestRow]:
    source = random.Random(seed)
    return [row(place, place * 100.0 / count, scale * source.lognormvariate(-1.0, 0.5)) for place in range(count)]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_percentiles_are_numpys(values: list[float]) -> None:
    found = distribution(values)
    assert found is not None
    expected = np.quantile(values, [0.5, 0.9, 0.95, 0.99])
    assert [found.p50, found.p90, found.p95, found.p99] == pytest.approx(expected.tolist())
    assert (found.count, found.min, found.max) == (len(values), min(values), max(values))


def test_known_latencies_come_out() -> None:
    rows = [row(place, float(place % 100), (place + 1) / 1000, tpot_s=0.02) for place in range(1000)]
    found = summarize(rows, Slo(ttft_s=0.5), 0.0, 100.0)
    assert found.time_to_first_token_s is not None and found.inter_token_latency_s is not None
    assert found.time_to_first_token_s.p50 == pytest.approx(0.5, rel=0.01)
    assert found.time_to_first_token_s.p99 == pytest.approx(0.99, rel=0.01)
    assert found.inter_token_latency_s.p90 == pytest.approx(0.02)
    assert found.goodput == 5.0 and found.good_request_fraction == 0.5


def test_the_warm_up_and_what_failed_are_not_in_the_latencies() -> None:
    rows = [row(0, 0.5, 9.0), row(1, 1.0, 0.1), row(2, 1.5, 9.0, error="cut_off"), row(3, 2.0, 9.0)]
    found = summarize(rows, Slo(), 1.0, 2.0)
    assert (found.request_count, found.error_request_count, found.errors) == (2, 1, {"cut_off": 1})
    assert found.time_to_first_token_s is not None and found.time_to_first_token_s.max == pytest.approx(0.1)
    assert found.goodput is None and found.good_request_fraction is None


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    found = summarize([row(0, 0.0, 0.1, tokens=1)], Slo(tpot_s=0.001), 0.0, 1.0)
    assert found.inter_token_latency_s is None and found.good_request_fraction == 1.0


def test_the_same_traffic_twice_is_no_difference_and_half_as_slow_is_one() -> None:
    base = made_run(drawn(1))
    place = [figure.label for figure in FIGURES].index("TTFT P50")
    again, faster = ratios(base, made_run(drawn(2)))[place], ratios(base, made_run(drawn(2, scale=0.5)))[place]
    assert again is not None and not again.certain and again.low < again.value < again.high
    assert faster is not None and faster.certain and faster.high < 1 and faster.value == pytest.approx(0.5, rel=0.2)


def test_intervals_are_wider_where_neighbours_are_alike() -> None:
    """A slow spell of ten seconds is one event, not forty."""
    spells = [row(n, n / 4, 2.0 if (n // 40) % 3 == 0 else 0.2) for n in range(400)]
    shuffled = [msgspec.structs.replace(each, due_s=n / 4) for n, each in enumerate(random.Random(1).sample(spells, 400))]
    shuffled = [row(n, n / 4, 2.0 if (each.ttft_s or 0) > 10 or (n * 7919) % 12 < 4 else 0.2) for n, each in enumerate(shuffled)]
    place = [figure.label for figure in FIGURES].index("goodput")
    wide, narrow = (ratios(made_run(rows), made_run(rows))[place] for rows in (spells, shuffled))
    assert wide is not None and narrow is not None
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)


def test_a_run_in_which_all_failed_has_no_latencies_to_compare() -> None:
    failed = made_run([row(n, float(n), 0.1, error="timeout") for n in range(20)])
    found = dict(zip([figure.label for figure in FIGURES], ratios(made_run(drawn(1)), failed), strict=True))
    assert found["TTFT P50"] is None and found["goodput"] is not None and found["goodput"].value == 0
    assert np.isnan(figures_of_run(failed, Slo())).any()


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    run = made_run(drawn(1, count=20))
    save_run(run, tmp_path / "report.json")
    assert load_run(tmp_path / "report.json") == run


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no result"),
        (b"{}", "its `schema` is ''"),
        (b'{"schema": "prfaas.replay", "schema_version": 99}', "version 99"),
        (b'{"schema": "prfaas.replay", "schema_version": 1}', "no result"),
        (b"\xff\xfe", "no result"),
    ],
)
def test_a_file_that_is_no_result_is_said(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ResultError, match=says):
        load_run(path)


def test_a_torn_last_line_is_left_out() -> None:
    lines = [msgspec.json.encode(each) + b"\n" for each in drawn(1, count=3)]
    assert len(rows_of_lines([*lines[::-1], lines[0][:10]])) == 3


def test_names_of_others_do_not_become_markup() -> None:
    title = '</script><script>alert(1)</script>"'
    rows = [row(0, 0.0, 0.1, prefill_site=title, outcome=title, trace_id=title), row(1, 1.0, 0.1, error=title, message=title)]
    run = made_run(rows, title=title)
    run.metrics.append(Series(name="prfaas_link_goodput_bytes_per_second", labels={"source": title}, at_s=[0.0], values=[1.0]))
    for page in (run_page(run), comparison_page([run, run])):
        assert "<script>alert" not in render(page)


def test_what_differs_is_listed_and_nothing_else() -> None:
    one, other = made_run(drawn(1)), made_run(drawn(1), title="another")
    found = difference_table([one, other], ["a", "b"])
    assert [[cell.text for cell in cells] for cells in found.rows] == [["title", "a run", "another"]]


def test_an_empty_run_has_a_page() -> None:
    assert "0 requests were due" in render(run_page(made_run([])))


def test_what_the_traffic_brings_to_both_runs_is_not_taken_for_chance() -> None:
    """The same requests, each a tenth faster: the ratio is sure, however uneven the traffic is."""
    rows = drawn(1)
    faster = [row(each.index, each.due_s, 0.9 * (each.ttft_s or 0.0)) for each in rows]
    workload = Workload(path="x", format="plain")
    base, other = (
        msgspec.structs.replace(run, setup=msgspec.structs.replace(run.setup, workload=workload))
        for run in (made_run(rows), made_run(faster))
    )
    place = [figure.label for figure in FIGURES].index("TTFT P90")
    tight, loose = ratios(base, other)[place], ratios(made_run(rows), made_run(faster))[place]
    assert tight is not None and loose is not None
    assert (tight.low, tight.high) == pytest.approx((0.9, 0.9)) and loose.low < 0.89 < 0.91 < loose.high


@given(
    st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9), st.integers(0, 1 << 53)), max_size=12),
    st.sampled_from([0.0, 5e-324, 1e-9, 0.3, 90.0, 1e7, 1e15]),
)
@settings(max_examples=30)
@pytest.mark.slow
def test_a_page_is_made_of_any_run(requests: list[tuple[float, float, int]], end_s: float) -> None:
    rows = [row(place, due_s, ttft_s, tokens=tokens) for place, (due_s, ttft_s, tokens) in enumerate(requests)]
    run = made_run(rows, end_s=end_s)
    assert len(bin_edges(run)) <= MAX_BINS + 2
    page = run_page(run)
    both = comparison_page([run, made_run(rows[:3], end_s=max(end_s, 1.0))])
    for chart in (*page.charts, *both.charts):
        msgspec.json.encode(chart.traces)
