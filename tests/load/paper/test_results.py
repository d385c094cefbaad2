"""Ratios from runs whose outcome is known."""

import io

import pytest
from rich.console import Console

from load.machine import CpuUse, conditions
from load.paper.results import ALL_POLICIES, CASES, POLICIES, SLO, CaseRun, Found, Results, Tried, crossing, show, summary
from load.paper.run import LiveRun, Pacing
from load.paper.stack import Scales
from load.report import Report, summarize
from prfaas.replay.arrival import Arrival
from prfaas.replay.record import Record


def report(kept_share: float, requests: int = 100) -> Report:
    kept = round(kept_share * requests)
    records = [
        Record(arrival=Arrival(0.0, 1, 1), first_s=1.0 if index < kept else 99.0, last_s=0.5, prefill_site="far")
        for index in range(requests)
    ]
    return summarize(records, SLO, 0.0, 1.0)


def run(kept_share: float, simulated_share: float = 1.0) -> LiveRun:
    return LiveRun(
        report=report(kept_share),
        simulated=report(simulated_share),
        cpu=CpuUse(idle=0.5, ours=0.2),
        pacing=Pacing(prefill={"far": -0.02}, step=0.0),
        cached_share=0.0,
        simulated_cached_share=0.0,
    )


def tried(*points: tuple[float, float]) -> list[Tried]:
    return [Tried(rate_req_s=rate, run=run(share)) for rate, share in points]


def test_the_crossing_lies_between_the_runs_next_to_it() -> None:
    assert crossing(tried((1.0, 1.0), (2.0, 0.8))) == pytest.approx(1.5)
    assert crossing(tried((2.0, 0.5), (1.8, 0.7), (1.6, 0.95))) == pytest.approx(1.6 + 0.2 * 0.05 / 0.25)
    assert crossing(tried((1.0, 0.5))) == 0.0
    assert crossing(tried((1.0, 0.95), (1.1, 0.92))) == 1.1


def found(rate_req_s: float) -> Found:
    return Found(
        paper_req_s=rate_req_s,
        equations_req_s=rate_req_s,
        mean_work_req_s=rate_req_s,
        simulated_req_s=rate_req_s,
        sustained_req_s=rate_req_s,
        saturated_req_s=2 * rate_req_s,
        tried=tried((rate_req_s, 1.0)),
    )


def test_the_summary_takes_the_lowest_gain_of_all_cases() -> None:
    deployments = {"local_only": found(2.0), "remote_all": found(2.5), "threshold": found(3.0)}
    shares = dict(zip(CASES, (0.75, 0.5, 0.6), strict=True))
    cases = [
        CaseRun(case=case, what=case, policy=policy, run=run(share if policy == POLICIES[0] else 0.9))
        for case, share in shares.items()
        for policy in POLICIES
    ]
    values = summary(deployments, cases)
    assert values["ratio_homogeneous"] == pytest.approx(1.5) and values["ratio_naive"] == pytest.approx(1.2)
    assert values["over_paper_policy"] == pytest.approx(0.9 / 0.75)
    assert values["over_paper_policy_simulated"] == pytest.approx(1.0)
    assert values["pacing_error_max"] == 0.02 and values["cpu_idle_min"] == 0.5
    results = Results(
        conditions=conditions(),
        scales=Scales(),
        slo=SLO,
        case_slo=SLO,
        seconds_per_run=1.0,
        deployments=deployments,
        cases=cases,
        summary=values,
    )
    with Console(width=200, record=True, quiet=True) as say:
        show(results, say)


def test_cases_alone_have_gains_and_no_ratios() -> None:
    cases = [CaseRun(case=case, what=case, policy=policy, run=run(0.5)) for case in CASES for policy in ALL_POLICIES]
    values = summary({}, cases)
    assert not any(name.startswith("ratio") for name in values) and values["over_paper_policy"] == 1.0
    results = Results(
        conditions=conditions(),
        scales=Scales(),
        slo=SLO,
        case_slo=SLO,
        seconds_per_run=1.0,
        deployments={},
        cases=cases,
        summary=values,
    )
    shown = io.StringIO()
    show(results, Console(width=200, file=shown))
    assert "remote_all" in shown.getvalue() and "Eq 3-6" not in shown.getvalue()


def test_a_deployment_that_never_held_has_no_ratio() -> None:
    deployments = {"local_only": found(0.0), "remote_all": found(2.5), "threshold": found(3.0)}
    cases = [CaseRun(case=case, what=case, policy=policy, run=run(0.0)) for case in CASES for policy in POLICIES]
    values = summary(deployments, cases)
    assert values["ratio_homogeneous"] == 0.0 and values["over_paper_policy"] == float("inf")
