"""The best split of a site's workers: against a walk over all of them, and against the paper."""

from math import inf

import hypothesis.strategies as st
import pytest
from hypothesis import given

from prfaas.capacity.builtin import builtin_profile
from prfaas.capacity.lengths import EmpiricalLengths, TruncatedLogNormal
from prfaas.capacity.threshold import PrefillStage
from prfaas_scheduler.roles.split import Observed, best_split, split


def site(
    n_prefill: int, n_decode: int, prefill_s: float, answer_s: float, remotes: tuple[float, ...] = (), fixed: float | None = None
) -> Observed:
    """Requests of 1 to 100 tokens whose prefill takes `prefill_s` and a hundredth per token."""

    def took_s(tokens: float) -> float:
        return prefill_s * (1 + tokens / 100)

    return Observed(
        lengths=EmpiricalLengths(range(1, 101)),
        output_tokens=100.0,
        local=PrefillStage(n_prefill, took_s, lambda tokens: 1e6),
        remotes=[PrefillStage(1, took_s, lambda tokens: 1e6, egress) for egress in remotes],
        n_decode=n_decode,
        slots=8,
        step_s=answer_s / 100,
        threshold_tokens=fixed,
    )


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.floats(0.1, 10.0),
    st.floats(0.1, 100.0),
    st.sampled_from([(), (1e5,), (1e5, 1e9)]),
    st.sampled_from([None, inf, -1.0, 50.0]),
)
def test_bisection_finds_what_a_walk_over_all_splits_finds(
    n_prefill: int, n_decode: int, prefill_s: float, answer_s: float, remotes: tuple[float, ...], fixed: float | None
) -> None:
    if fixed is not None and fixed < 100 and not remotes:
        fixed = inf  # nobody could prefill what is above it
    observed = site(n_prefill, n_decode, prefill_s, answer_s, remotes, fixed)
    found = best_split(observed)
    total = n_prefill + n_decode
    assert found.n_prefill + found.n_decode == total and min(found.n_prefill, found.n_decode) >= 1
    best = max(split(observed, count).req_s for count in range(1, total))
    assert found.req_s == pytest.approx(best, rel=0.02), "thresholds of whole tokens leave a little"


def test_where_everything_goes_remote_home_only_decodes() -> None:
    assert best_split(site(4, 4, 1.0, 80.0, (1e12,), fixed=-1.0)).n_prefill == 1
    assert best_split(site(4, 4, 1.0, 80.0, fixed=inf)).n_decode > 4


def test_from_the_papers_profiles_it_finds_the_papers_roles() -> None:
    fast, slow = builtin_profile("paper-1t-h200-anchored"), builtin_profile("paper-1t-h20")
    batch = slow.batch_max(40.0)
    observed = Observed(
        lengths=TruncatedLogNormal(mu=9.90, sigma=1.00, low_tokens=128, high_tokens=131_072),
        output_tokens=1024.0,
        local=PrefillStage(1, slow.prefill_s, slow.kv_bytes),
        remotes=[PrefillStage(4, fast.prefill_s, fast.kv_bytes, 100e9 / 8)],
        n_decode=7,
        slots=batch,
        step_s=slow.step_s(batch),
    )
    found = best_split(observed)
    assert (found.n_prefill, found.n_decode) == (3, 5)
    assert found.req_s == pytest.approx(3.24, rel=0.02)
