"""The best threshold by the mean of T(L) over a sample of lengths."""

from math import inf

import hypothesis.strategies as st
import pytest
from hypothesis import given

from prfaas.capacity.builtin import builtin_profile
from prfaas.capacity.lengths import TruncatedLogNormal, quantile_midpoints
from prfaas.capacity.mean_work import SAMPLE, mean_work_limits, quantiles
from prfaas.capacity.threshold import PrefillStage

H20, H200 = builtin_profile("paper-1t-h20"), builtin_profile("paper-1t-h200-anchored")
LENGTHS = quantile_midpoints(TruncatedLogNormal(mu=9.90, sigma=1.00, low_tokens=128, high_tokens=131_072), 2048)
LOCAL = PrefillStage(3, H20.prefill_s, H20.kv_bytes)


def remote(egress_bytes_per_s: float = inf, workers: int = 4) -> PrefillStage:
    return PrefillStage(workers, H200.prefill_s, H200.kv_bytes, egress_bytes_per_s)


@given(st.lists(st.integers(1, 131_072), min_size=1, max_size=40), st.sampled_from([inf, 1e9, 1e7]))
def test_the_best_cut_carries_no_less_than_any_other(lengths: list[int], egress_bytes_per_s: float) -> None:
    stage = remote(egress_bytes_per_s)
    limits = mean_work_limits(lengths, LOCAL, [stage])
    threshold, req_s = limits.best()
    assert limits.at(threshold) == req_s == max(limits.at(cut) for cut in (0, *lengths))
    for cut in (0, 5000, 20_000, 131_072):
        stays = sum(H20.prefill_s(length) for length in lengths if length <= cut) / len(lengths)
        leaves = sum(H200.prefill_s(length) for length in lengths if length > cut) / len(lengths)
        ships = sum(H200.kv_bytes(length) for length in lengths if length > cut) / len(lengths)
        rates = [capacity / cost for capacity, cost in ((3, stays), (4, leaves), (egress_bytes_per_s, ships)) if cost]
        assert limits.at(cut) == pytest.approx(min(rates))


def test_two_remote_sites_carry_what_one_of_both_sizes_carries() -> None:
    one = mean_work_limits(LENGTHS, LOCAL, [remote(1e9, 4)])
    two = mean_work_limits(LENGTHS, LOCAL, [remote(5e8, 2), remote(5e8, 2)])
    assert two.req_s == pytest.approx(one.req_s)


def test_a_remote_cache_makes_the_same_requests_less_work_there_and_no_less_here() -> None:
    """Every request has a length at either side; the cut goes by the one here."""
    half = [length / 2 for length in LENGTHS]
    both, there = mean_work_limits(half, LOCAL, [remote()]), mean_work_limits(LENGTHS, LOCAL, [remote()], half)
    assert there.lengths == mean_work_limits(LENGTHS, LOCAL, [remote()]).lengths
    assert there.req_s[0] == both.req_s[0] and there.req_s[-1] == mean_work_limits(LENGTHS, LOCAL, [remote()]).req_s[-1]
    assert there.best()[0] < 19_400


def test_a_slow_link_raises_the_threshold() -> None:
    fast, slow = (mean_work_limits(LENGTHS, LOCAL, [remote(rate)]).best() for rate in (100e9 / 8, 1e9 / 8))
    assert slow[0] > 2 * fast[0] and slow[1] < fast[1]
    assert fast[0] == pytest.approx(19_400, rel=0.1)


def test_many_lengths_are_cut_down_to_quantiles() -> None:
    assert quantiles([3, 1, 2]) == [1, 2, 3]
    found = quantiles(range(10_000))
    assert len(found) == SAMPLE and found == sorted(found) and sum(found) / SAMPLE == pytest.approx(5000, rel=0.01)
