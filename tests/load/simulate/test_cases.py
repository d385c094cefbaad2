"""The cases that policies are compared in, cut short."""

import pytest

from load.simulate.cases import Case, carried_req_s, cases
from load.simulate.compare import POLICIES, run
from load.simulate.paper import DEPLOYMENTS, LENGTHS, mean_work_capacity


def short(case: Case, requests: int = 150) -> Case:
    arrivals = case.arrivals[:requests]
    return case._replace(arrivals=arrivals, duration_s=arrivals[-1].arrival_s)


def test_the_papers_lengths_give_the_papers_threshold_and_rate() -> None:
    case = cases(0.9)["steady"]()
    assert case.threshold_tokens == pytest.approx(19_400, rel=0.01)
    rate_req_s = len(case.arrivals) / case.duration_s
    assert rate_req_s == pytest.approx(0.9 * mean_work_capacity(DEPLOYMENTS["threshold"]).req_s, rel=0.01)


def test_load_is_a_share_of_what_can_be_carried_in_every_trace() -> None:
    for name in ("mooncake", "reuse", "azure"):
        case = cases(0.5)[name]()
        lengths = [arrival.prompt_tokens for arrival in case.arrivals]
        output_tokens = sum(arrival.output_tokens for arrival in case.arrivals) / len(case.arrivals)
        assert len(lengths) / case.duration_s == pytest.approx(0.5 * carried_req_s(lengths, output_tokens), rel=0.01)


def test_prefix_reuse_leaves_less_to_prefill() -> None:
    whole, uncached = cases(0.5)["mooncake"](), cases(0.5)["reuse"]()
    assert sum(a.prompt_tokens for a in uncached.arrivals) < 0.8 * sum(a.prompt_tokens for a in whole.arrivals)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_answers_a_light_load(policy: str) -> None:
    outcome = run(short(cases(0.3)["steady"]()), policy)
    assert not outcome.report.errors
    sites = {"local_only": {"home"}, "remote_all": {"far"}, "threshold": {"home", "far"}}
    assert set(outcome.report.prefill_sites) == sites.get(policy, set(outcome.report.prefill_sites))
    assert outcome.egress_peak_gbit_s <= 100.0 + 1e-9
    assert LENGTHS.high_tokens >= outcome.threshold_tokens
