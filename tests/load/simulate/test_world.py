"""Whole scenarios: nothing is lost, light load takes exactly its time, policies route, a cut link falls back."""

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from load.arrivals import poisson
from load.report import Slo, summarize
from load.simulate.paper import DEPLOYMENTS, H20, H200, LENGTHS, mean_length_capacity, mean_work_capacity, scenario
from load.simulate.scenario import LinkSpec, PdSite, Scenario, Timing
from load.simulate.world import simulate
from prfaas.replay.arrival import Arrival
from tests.budget import examples

TIMING = Timing()
FAST = LinkSpec(rates=((0.0, 100e9 / 8),))


@settings(deadline=None, max_examples=examples(15))
@given(st.sampled_from(sorted(DEPLOYMENTS)), st.floats(0.2, 8.0), st.integers(0, 99))
def test_every_request_ends_once_and_in_order(name: str, rate_req_s: float, seed: int) -> None:
    arrivals = poisson(LENGTHS, rate_req_s=rate_req_s, duration_s=60.0, output_tokens=50, seed=seed)
    (records,) = simulate(scenario(DEPLOYMENTS[name], arrivals, timing=Timing(ttft_deadline_s=40.0))).records.values()
    assert [record.arrival for record in records] == arrivals
    for record in records:
        if record.error:
            assert record.error in ("deadline", "not_in_time") and record.last_s is None
        else:
            assert record.first_s is not None and record.last_s is not None and record.tokens == 50
            fastest_s = min(H20.prefill_s(record.arrival.prompt_tokens - 1), H200.prefill_s(record.arrival.prompt_tokens - 1))
            assert record.arrival.arrival_s + fastest_s < record.first_s < record.last_s


def test_alone_a_request_takes_its_prefill_and_one_step() -> None:
    arrivals = [Arrival(5.0, 8193, 100)]
    (records,) = simulate(scenario(DEPLOYMENTS["threshold"], arrivals)).records.values()
    (record,) = records
    want_s = H20.prefill_s(8192) + 0.025 + 5 * TIMING.control_s
    assert record.ttft_s == pytest.approx(want_s)
    assert record.tpot_s == pytest.approx(0.025)
    assert record.prefill_site == "home" and record.outcome == "local_short"


def test_the_threshold_decides_where_and_the_link_counts_its_bytes() -> None:
    arrivals = [Arrival(1.0, 5000, 10), Arrival(2.0, 30_000, 10), Arrival(3.0, 19_401, 10), Arrival(4.0, 19_402, 10)]
    result = simulate(scenario(DEPLOYMENTS["threshold"], arrivals))
    assert [record.prefill_site for record in result.records["home"]] == ["home", "far", "home", "far"]
    sent = sum(result.egress_bytes["far.home"].values())
    assert sent == pytest.approx(H200.kv_bytes(29_999) + H200.kv_bytes(19_401))
    assert result.prefill_busy_s["far"] == pytest.approx(H200.prefill_s(29_999) + H200.prefill_s(19_401), rel=0.01)


def test_the_same_scenario_gives_the_same_result() -> None:
    arrivals = poisson(LENGTHS, rate_req_s=3.0, duration_s=60.0, output_tokens=50, seed=4)
    one, again = (simulate(scenario(DEPLOYMENTS["threshold"], arrivals)) for _ in range(2))
    assert msgspec.json.encode(one) == msgspec.json.encode(again)


def test_a_cut_link_makes_requests_fall_back_and_none_fails() -> None:
    arrivals = [Arrival(float(second), 25_000, 10) for second in range(1, 90, 3)]
    cut = LinkSpec(rates=((0.0, 100e9 / 8), (20.0, 0.0), (60.0, 100e9 / 8)))
    (records,) = simulate(
        scenario(DEPLOYMENTS["threshold"], arrivals, link=cut, timing=Timing(ttft_deadline_s=30.0))
    ).records.values()
    assert not any(record.error for record in records)
    outcomes = [record.outcome for record in records]
    assert outcomes[0] == outcomes[-1] == "offloaded" and "fallback_timeout" in outcomes


def test_two_pd_sites_share_a_prefill_site() -> None:
    base = scenario(DEPLOYMENTS["threshold"], [Arrival(1.0, 30_000, 10)])
    (home,) = base.pd
    other: PdSite = msgspec.structs.replace(home, name="other", arrivals=[Arrival(1.0, 30_000, 10)] * 8)
    far = msgspec.structs.replace(base.prfaas[0], links={"home": FAST, "other": FAST})
    result = simulate(Scenario(pd=[home, other], prfaas=[far]))
    assert {name: len(records) for name, records in result.records.items()} == {"home": 1, "other": 8}
    assert {record.prefill_site for records in result.records.values() for record in records} == {"far"}
    assert set(result.egress_bytes) == {"far.home", "far.other"}


def test_nothing_to_do() -> None:
    assert simulate(scenario(DEPLOYMENTS["local_only"], [])).records == {"home": []}


@pytest.mark.parametrize(("name", "paper_req_s"), [(name, at.paper_req_s) for name, at in DEPLOYMENTS.items()])
def test_the_equations_are_the_papers(name: str, paper_req_s: float) -> None:
    assert mean_length_capacity(DEPLOYMENTS[name]).req_s == pytest.approx(paper_req_s, rel=0.01)


@pytest.mark.parametrize("name", sorted(DEPLOYMENTS))
def test_an_overloaded_deployment_completes_what_its_stations_can(name: str) -> None:
    """The simulation agrees with arithmetic: far above capacity, answers per second are the bottleneck's rate."""
    capacity = mean_work_capacity(DEPLOYMENTS[name]).req_s
    duration_s = 400.0
    arrivals = poisson(LENGTHS, rate_req_s=1.25 * capacity, duration_s=duration_s, output_tokens=1024, seed=3)
    (records,) = simulate(scenario(DEPLOYMENTS[name], arrivals)).records.values()
    report = summarize(records, Slo(ttft_s=60.0), duration_s / 3, duration_s)
    assert report.completed_req_s == pytest.approx(capacity, rel=0.1)
