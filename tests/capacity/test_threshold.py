"""Eq 7 on observed lengths: the same t as the solver's, and no other whole t is better."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from prfaas.capacity.lengths import EmpiricalLengths
from prfaas.capacity.profiles import Profile
from prfaas.capacity.threshold import PrefillStage, prefill_limit_req_s, solve_threshold
from prfaas.planner.solver import TwoSites, best_threshold


def stage(profile: Profile, workers: float, egress_bytes_per_s: float = float("inf")) -> PrefillStage:
    return PrefillStage(workers, profile.prefill_s, profile.kv_bytes, egress_bytes_per_s)


@pytest.mark.parametrize("egress_gbit_s", [100.0, 5.0, 1.0])
@pytest.mark.parametrize("n_prefill", [2, 3, 5])
def test_it_agrees_with_the_solver(anchored_case: TwoSites, egress_gbit_s: float, n_prefill: int) -> None:
    case = anchored_case._replace(egress_bytes_per_s=egress_gbit_s * 1e9 / 8)
    remote = stage(case.prfaas, case.n_prfaas, case.egress_bytes_per_s)
    found = solve_threshold(case.lengths, stage(case.pd, n_prefill), [remote])
    assert found == pytest.approx(best_threshold(case, n_prefill).threshold_tokens, abs=2)


def test_two_sites_of_half_the_size_are_one(anchored_case: TwoSites) -> None:
    local = stage(anchored_case.pd, 3)
    one = [stage(anchored_case.prfaas, 4, 2e8)]
    two = [stage(anchored_case.prfaas, 2, 1e8)] * 2
    assert solve_threshold(anchored_case.lengths, local, one) == solve_threshold(anchored_case.lengths, local, two)


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=12),
    st.floats(0.1, 8),
    st.floats(0.1, 8),
    st.floats(0, 5),
    st.floats(1.0, 2.0),
)
def test_no_other_threshold_carries_more(
    seen: list[int], local_workers: float, remote_workers: float, constant_s: float, power: float
) -> None:
    def prefill_s(tokens: float) -> float:
        return float(constant_s + tokens**power / 10 + 1e-3)

    lengths = EmpiricalLengths(seen)
    local = PrefillStage(local_workers, prefill_s, lambda tokens: 5 + tokens)
    remotes = [PrefillStage(remote_workers, prefill_s, lambda tokens: 5 + tokens, 40.0)]
    found = prefill_limit_req_s(lengths, solve_threshold(lengths, local, remotes), local, remotes)
    best = max(prefill_limit_req_s(lengths, tokens, local, remotes) for tokens in range(-1, 61))
    assert found == pytest.approx(best)


def test_a_link_that_carries_nothing_leaves_everything_at_home(anchored_case: TwoSites) -> None:
    seen = EmpiricalLengths([100, 5000, 90_000])
    assert solve_threshold(seen, stage(anchored_case.pd, 3), [stage(anchored_case.prfaas, 4, 0.0)]) >= 90_000
