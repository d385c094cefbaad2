"""The cases that policies are compared in, cut short."""

import pytest

from load.simulate.cases import carried_req_s, cases
from load.simulate.compare import run
from load.simulate.paper import DEPLOYMENTS, LENGTHS, mean_work_capacity
from load.simulate.policies import POLICIES


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
        # A part of a trace may be lighter or heavier than the whole.
        assert len(lengths) / case.duration_s == pytest.approx(0.5 * carried_req_s(lengths, output_tokens), rel=0.2)
        assert case.arrivals[-1].arrival_s < case.duration_s


def test_prefix_reuse_leaves_less_to_prefill() -> None:
    whole, uncached = ([arrival.prompt_tokens for arrival in cases(0.5)[name]().arrivals] for name in ("mooncake", "reuse"))
    assert sum(uncached) / len(uncached) < 0.8 * sum(whole) / len(whole)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_answers_a_light_load(policy: str) -> None:
    outcome = run(cases(0.3, duration_s=150.0)["steady"](), policy)
    assert not outcome.report.errors
    sites = {"local_only": {"home"}, "remote_all": {"far"}, "threshold": {"home", "far"}}
    assert set(outcome.report.prefill_sites) == sites.get(policy, set(outcome.report.prefill_sites))
    assert outcome.egress_peak_gbit_s <= 100.0 + 1e-9
    assert LENGTHS.high_tokens >= outcome.threshold_tokens
