"""A pull is given up when it is late, and not while it may still end in time."""

import hypothesis.strategies as st
from hypothesis import given

from prfaas_prefill_worker.pulls.pull_clock import BEGIN_S, PullClock

LIMIT_S = 2.0
TOTAL = 1000


def clock(limit_s: float = LIMIT_S) -> PullClock:
    return PullClock(100.0, limit_s, TOTAL)


def test_it_has_to_begin_soon() -> None:
    assert clock().late(100.0 + BEGIN_S - 0.01, 0, 0) is None
    late = clock().late(100.0 + BEGIN_S, 0, 0)
    assert late is not None and "did not begin" in late
    assert clock().late(100.0 + BEGIN_S, 1, 0) is None, "the first frame has no KV"


def test_its_time_has_an_end_whatever_has_come() -> None:
    late = clock().late(102.0, 9, TOTAL - 1)
    assert late is not None and "not complete after 2.00 s: 999 of 1000" in late
    assert clock(limit_s=0.1).late(100.2, 0, 0) is not None


def test_a_rate_that_is_hopeless_ends_it_early() -> None:
    assert clock().late(100.4, 3, 10) is None, "too early to tell"
    late = clock().late(101.0, 3, 100)
    assert late is not None and "100 of 1000 bytes came in 1.00 s" in late
    assert clock().late(101.0, 3, 400) is None, "somewhat slow is not hopeless"


@given(st.floats(0.0, 0.999), st.floats(0.05, 60.0))
def test_a_pull_that_comes_evenly_and_in_time_is_never_given_up(share: float, limit_s: float) -> None:
    assert clock(limit_s).late(100.0 + share * limit_s, 2, max(1, round(share * TOTAL))) is None
