"""The equations beside the paper's own arithmetic (sections 2.3 and 4.3)."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.capacity import equations
from prfaas.capacity.builtin import KV_RATES

positive = st.floats(min_value=1e-3, max_value=1e3)


@pytest.mark.parametrize(
    ("gpus", "model", "thousand", "gbit_s"),
    [
        (512, "minimax-m2.5", 32, 3_800),
        (512, "qwen3-235b", 32, 2_100),
        (512, "ring-2.5-1t", 32, 170),
        (10_000, "ring-2.5-1t", 128, 1_800),
    ],
)
def test_eq_2_gives_section_2_3s_examples(gpus: int, model: str, thousand: int, gbit_s: float) -> None:
    kv_bytes_per_s = KV_RATES[model].kv_gbit_s(thousand * 1024) * 1e9 / 8
    egress = equations.cluster_egress_bytes_per_s(gpus, 8, kv_bytes_per_s, 1.0)
    assert egress * 8 / 1e9 == pytest.approx(gbit_s, rel=0.03)


def test_eq_3_takes_the_slower_of_compute_and_link() -> None:
    assert equations.prfaas_req_s(4, 2.0, 1e9, 1e8) == 2.0
    assert equations.prfaas_req_s(4, 2.0, 1e8, 1e8) == 1.0


def test_eq_5_gives_table_6s_decode_rates() -> None:
    """A batch of 20 in steps of 25 ms: 3, 5 and 8 instances."""
    rates = [equations.pd_decode_req_s(n, 20, 0.025, 1024) for n in (3, 5, 8)]
    assert rates == pytest.approx([2.35, 3.91, 6.25], abs=0.01)


def test_eq_6_gives_table_6s_throughput() -> None:
    assert equations.throughput_req_s(0.496, 1.61, 1.64, 3.91) == pytest.approx(3.24, abs=0.02)
    assert equations.throughput_req_s(1.0, 2.45, 0.0, 6.25) == 2.45
    assert equations.throughput_req_s(0.0, 0.0, 2.11, 2.35) == 2.11


@given(positive, positive, st.floats(min_value=0.01, max_value=0.99), positive)
def test_eq_6_is_the_tightest_stage(prfaas: float, pd_prefill: float, share: float, decode: float) -> None:
    rate = equations.throughput_req_s(share, prfaas, pd_prefill, decode)
    assert rate * share <= prfaas * (1 + 1e-9)
    assert rate * (1 - share) <= pd_prefill * (1 + 1e-9)
    assert rate <= decode
    assert any(math.isclose(rate, limit) for limit in (prfaas / share, pd_prefill / (1 - share), decode))


@given(positive, positive)
def test_eq_7_is_zero_where_shares_follow_rates(prfaas: float, pd_prefill: float) -> None:
    share = prfaas / (prfaas + pd_prefill)
    scale = prfaas + pd_prefill
    assert equations.threshold_imbalance_req_s(share, prfaas, pd_prefill) / scale == pytest.approx(0, abs=1e-9)
    assert equations.threshold_imbalance_req_s(share * 0.9, prfaas, pd_prefill) > 0
    assert equations.threshold_imbalance_req_s(1.0, prfaas, pd_prefill) == -math.inf


def test_eq_8_says_who_waits_for_whom() -> None:
    assert equations.role_imbalance_req_s(1.61, 1.64, 3.91) < 0
    assert equations.role_imbalance_req_s(1.61, 1.64, 3.25) == pytest.approx(0)
    assert equations.role_imbalance_req_s(1.61, 1.64, 2.0) > 0


def test_what_costs_nothing_has_no_limit() -> None:
    assert equations.pd_prefill_req_s(3, 0.0) == math.inf
    assert equations.pd_prefill_req_s(0, 0.0) == 0.0
