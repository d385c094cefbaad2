import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from load.report import Slo, latency, percentile, summarize, table
from prfaas.replay.arrival import Arrival
from prfaas.replay.record import Record


def record(arrival_s: float, ttft_s: float | None = 0.1, *, tokens: int = 11, tpot_s: float = 0.01, error: str = "") -> Record:
    out = Record(arrival=Arrival(arrival_s, 10, tokens), sent_s=arrival_s, error=error, outcome="offloaded", prefill_site="far")
    if ttft_s is not None:
        out.first_s = arrival_s + ttft_s
        out.last_s = out.first_s + tpot_s * (tokens - 1)
        out.tokens = tokens
    return out


def test_a_window_counts_arrivals_and_ends_of_its_own() -> None:
    records = [record(at) for at in (0.0, 0.95, 1.0, 1.5, 1.9, 2.0)]
    report = summarize(records, Slo(ttft_s=0.2), 1.0, 2.0)
    assert report.offered_req_s == 3
    assert report.completed_req_s == 3  # 0.95, 1.0 and 1.5 end in it
    assert report.goodput_req_s == 3 and report.kept_share == 1


def test_what_failed_is_not_good_and_not_in_the_latencies() -> None:
    records = [record(0.0), record(0.1, ttft_s=0.5), record(0.2, tpot_s=0.05), record(0.3, ttft_s=None, error="overloaded")]
    report = summarize(records, Slo(ttft_s=0.2, tpot_s=0.02), 0.0, 1.0)
    assert report.goodput_req_s == 1 and report.kept_share == 0.25
    assert not report.sustained(Slo(ttft_s=0.2)) and report.sustained(Slo(ttft_s=0.2, share=0.25))
    assert report.errors == {"overloaded": 1} and report.outcomes == {"offloaded": 3}
    assert report.ttft is not None and report.ttft.max_s == pytest.approx(0.5)


def test_a_request_that_broke_off_after_its_first_token_is_not_good() -> None:
    assert not Slo(ttft_s=1.0).kept(record(0.0, error="cut_off"))


def test_nothing_happened() -> None:
    report = summarize([], Slo(ttft_s=1.0), 0.0, 1.0)
    assert report.ttft is None and report.kept_share == 0.0
    with pytest.raises(ValueError, match="must end after"):
        summarize([], Slo(ttft_s=1.0), 1.0, 1.0)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_a_value_that_enough_do_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= math.floor(share * len(values))
    assert sum(value < found for value in values) < max(1, math.ceil(share * len(values)))


def test_latency_of_nothing_is_none_and_tables_show_it() -> None:
    assert latency([]) is None
    report = summarize([record(0.0, ttft_s=None, error="timeout")], Slo(ttft_s=1.0), 0.0, 1.0)
    assert table({"x": report}, "t").row_count == 1
