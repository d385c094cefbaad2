import hypothesis.strategies as st
import pytest
from hypothesis import given

from load.report import Report, Slo, summarize
from load.search import sustained_rate
from prfaas.replay.arrival import Arrival
from prfaas.replay.record import Record

SLO = Slo(ttft_s=1.0)


def report(kept: bool) -> Report:
    return summarize([Record(arrival=Arrival(0.0, 1, 1), first_s=0.5 if kept else 2.0)], SLO, 0.0, 1.0)


@given(st.floats(1.0, 100.0))
def test_finds_where_the_slo_breaks(limit: float) -> None:
    found = sustained_rate(lambda rate: report(rate <= limit), SLO, low_req_s=0.5, high_req_s=120.0, tolerance=0.01, max_runs=30)
    assert found.rate_req_s <= limit <= found.rate_req_s * 1.02
    assert found.at is not None and found.at.sustained(SLO)


def test_ends_at_the_bounds() -> None:
    never = sustained_rate(lambda rate: report(False), SLO, low_req_s=1.0, high_req_s=2.0)
    assert (never.rate_req_s, never.at, len(never.tried)) == (0.0, None, 1)
    always = sustained_rate(lambda rate: report(True), SLO, low_req_s=1.0, high_req_s=2.0)
    assert (always.rate_req_s, len(always.tried)) == (2.0, 2)


def test_is_bounded() -> None:
    found = sustained_rate(lambda rate: report(rate < 1.5), SLO, low_req_s=1.0, high_req_s=2.0, tolerance=0.0, max_runs=7)
    assert len(found.tried) == 7
    with pytest.raises(ValueError, match="0 < low < high"):
        sustained_rate(lambda rate: report(True), SLO, low_req_s=2.0, high_req_s=2.0)
