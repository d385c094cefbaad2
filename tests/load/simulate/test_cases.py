"""The cases that policies are compared in, cut short."""

import pytest

from load.simulate import agentic
from load.simulate.cases import carried_req_s, cases
from load.simulate.compare import run
from load.simulate.paper import DEPLOYMENTS, LENGTHS, mean_work_capacity
from load.simulate.policies import POLICIES
from prfaas.planner.uncached import uncached_tokens
from prfaas.traces import TraceRequest


def test_the_papers_lengths_give_the_papers_threshold_and_rate() -> None:
    case = cases(0.9)["steady"]()
    assert case.threshold_tokens == pytest.approx(19_400, rel=0.01)
    rate_req_s = len(case.arrivals) / case.duration_s
    assert rate_req_s == pytest.approx(0.9 * mean_work_capacity(DEPLOYMENTS["threshold"]).req_s, rel=0.01)


def test_load_is_a_share_of_what_can_be_carried_in_every_trace() -> None:
    for name in ("mooncake", "azure"):
        case = cases(0.5)[name]()
        lengths = [arrival.prompt_tokens for arrival in case.arrivals]
        output_tokens = sum(arrival.output_tokens for arrival in case.arrivals) / len(case.arrivals)
        # A part of a trace may be lighter or heavier than the whole.
        assert len(lengths) / case.duration_s == pytest.approx(0.5 * carried_req_s(lengths, output_tokens), rel=0.2)
        assert case.arrivals[-1].arrival_s < case.duration_s


def test_prefix_reuse_leaves_less_to_prefill_so_more_can_be_carried() -> None:
    whole, reuse = (cases(0.5)[name]() for name in ("mooncake", "reuse"))
    assert len(reuse.arrivals) > 1.2 * len(whole.arrivals)
    assert reuse.threshold_tokens < whole.threshold_tokens
    assert all(arrival.block_ids for arrival in reuse.arrivals)


def test_workers_reuse_what_they_have_prefilled() -> None:
    case = cases(0.3, duration_s=300.0)["reuse"]()
    outcome = run(case, "priced")
    assert not outcome.report.errors
    prompts = [TraceRequest(0.0, each.prompt_tokens, 0, each.block_ids, case.block_tokens) for each in case.arrivals]
    ideal = 1 - sum(uncached_tokens(prompts)) / sum(prompt.input_tokens for prompt in prompts)
    assert 0.7 * ideal < outcome.cached_share["home"] + outcome.cached_share["far"] <= ideal
    assert 0.7 * ideal < outcome.cached_share["home decode"] <= ideal


def test_agents_prompts_go_by_what_is_not_cached() -> None:
    case = cases(0.3, duration_s=300.0)["agentic"]()
    told, blind = (agentic.run(case, "threshold", 19_400, told=told) for told in (True, False))
    assert told.long_short_rest.requests > 20
    assert told.long_short_rest.offloaded <= 0.05 * told.long_short_rest.requests, "but for news that is on its way"
    assert blind.long_short_rest.offloaded == blind.long_short_rest.requests > 0
    for each in (told, blind):
        assert each.short.offloaded == 0 and each.long_long_rest.offloaded == each.long_long_rest.requests
    assert told.cached_share > blind.cached_share
    assert told.egress_bytes < blind.egress_bytes


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_answers_a_light_load(policy: str) -> None:
    outcome = run(cases(0.3, duration_s=150.0)["steady"](), policy)
    assert not outcome.report.errors or policy == "headroom", "it sheds a prompt that takes longer than the objective alone"
    sites = {"local_only": {"home"}, "remote_all": {"far"}, "threshold": {"home", "far"}}
    assert set(outcome.report.prefill_sites) == sites.get(policy, set(outcome.report.prefill_sites))
    assert outcome.egress_peak_gbit_s <= 100.0 + 1e-9
    assert LENGTHS.high_tokens >= outcome.threshold_tokens
