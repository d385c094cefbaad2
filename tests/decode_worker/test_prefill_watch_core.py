"""Loss of the prefill worker that has a job: a dead, a stopped and an unreachable one, or one's own standstill."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from prfaas.bus.patience import Patience
from prfaas_decode_worker.prefill_watch import ANSWER_WAIT_S, ASK_ABSENT_EVERY_S, ASK_EVERY_S
from prfaas_decode_worker.prefill_watch_core import (
    ABSENT_S,
    CUT_S,
    MAX_STEP_S,
    SILENT_S,
    Gone,
    PrefillWatchCore,
)

BUDGET_S = 3.0
"""Most that a worker's end may cost before its request goes on elsewhere."""


def watch(*, own_site: bool = False) -> PrefillWatchCore:
    return PrefillWatchCore("worker p1", 0.0, Patience(SILENT_S), own_site=own_site)


def _looked(core: PrefillWatchCore, what: str, now_s: float, *, site_answers: bool) -> Gone | None:
    if what == "absent":
        gone = core.handle_absence(now_s, site_answers=site_answers)
    else:
        gone = core.handle_silence(now_s, server_answers=site_answers)
    core.validate()
    return gone


def until_gone(core: PrefillWatchCore, what: str, *, site_answers: bool, most_s: float = 20.0) -> tuple[float, Gone | None]:
    """Asks as the shell does, of a worker that answered at 0 s and ended right afterwards."""
    now_s = ASK_EVERY_S
    while now_s < most_s:
        now_s += ANSWER_WAIT_S if what == "silent" else 0.0
        gone = _looked(core, what, now_s, site_answers=site_answers)
        if gone is not None:
            return now_s, gone
        now_s += ASK_ABSENT_EVERY_S if what == "absent" else 0.0
    return now_s, None


@pytest.mark.parametrize("own_site", [True, False])
def test_a_dead_worker_costs_less_than_the_budget_and_counts_as_dead(own_site: bool) -> None:
    after_s, gone = until_gone(watch(own_site=own_site), "absent", site_answers=True)
    assert gone == Gone("worker p1 has no connection any more", died=True)
    assert ABSENT_S < after_s < BUDGET_S


@pytest.mark.parametrize("own_site", [True, False])
def test_a_stopped_worker_is_left_within_the_budget_and_does_not_count_as_dead(own_site: bool) -> None:
    after_s, gone = until_gone(watch(own_site=own_site), "silent", site_answers=True)
    assert gone is not None and not gone.died and "has not answered for" in gone.reason
    assert SILENT_S <= after_s < BUDGET_S


@pytest.mark.parametrize(("what", "patience_s"), [("absent", CUT_S), ("silent", SILENT_S)])
def test_a_link_that_is_down_kills_no_worker(what: str, patience_s: float) -> None:
    after_s, gone = until_gone(watch(), what, site_answers=what == "silent")  # whose silence is not asked about
    assert gone is not None and not gone.died
    assert patience_s <= after_s < BUDGET_S


@pytest.mark.parametrize("what", ["absent", "silent"])
def test_a_stopped_server_says_nothing_of_the_workers_of_its_site(what: str) -> None:
    core = watch(own_site=True)
    assert until_gone(core, what, site_answers=False, most_s=60.0)[1] is None
    assert core.handle_silence(61.0, server_answers=True) is None, "it is given its time once the server is back"


def test_an_absence_must_last_and_the_site_must_answer_all_that_time() -> None:
    core = watch()
    assert core.handle_absence(0.5, site_answers=True) is None
    assert core.handle_absence(0.5 + 0.9 * ABSENT_S, site_answers=True) is None
    core.handle_sign(1.5)
    assert core.handle_absence(2.0, site_answers=True) is None
    assert core.handle_absence(2.2, site_answers=False) is None
    assert core.handle_absence(2.9, site_answers=True) is None, (
        "the link is only just back: the site tells its subjects one by one"
    )


def test_a_decode_worker_that_stood_still_does_not_hold_it_against_the_worker() -> None:
    core = watch()
    assert core.handle_silence(30.0, server_answers=True) is None
    core.handle_sign(30.5)
    assert core.handle_silence(60.0, server_answers=True) is None
    gone = core.handle_silence(61.0, server_answers=True)
    assert gone is not None and not gone.died


LOOKS = st.tuples(
    st.sampled_from(["sign", "absent", "silent"]), st.booleans(), st.floats(0.0, 2 * MAX_STEP_S, allow_subnormal=False)
)


@given(st.booleans(), st.lists(LOOKS, max_size=30))
def test_a_worker_is_given_up_only_for_time_without_a_sign(own_site: bool, looks: list[tuple[str, bool, float]]) -> None:
    core = watch(own_site=own_site)
    now_s = sign_at = 0.0
    absent_since: float | None = None
    for what, site_answers, after_s in looks:
        now_s += after_s
        if what == "sign":
            core.handle_sign(now_s)
            sign_at, absent_since, gone = now_s, None, None
        else:
            gone = _looked(core, what, now_s, site_answers=site_answers)
            began_at = now_s if absent_since is None else absent_since
            absent_since = began_at if what == "absent" and site_answers else None
        assert not core.missing or now_s > sign_at
        if gone is not None:
            assert now_s - sign_at >= min(ABSENT_S, CUT_S, SILENT_S)
            assert gone.died is (absent_since is not None)
            assert not gone.died or now_s - (absent_since or 0.0) >= ABSENT_S - 1e-9
            assert not own_site or site_answers
            return


def test_a_worker_that_was_slow_to_answer_is_waited_for_longer() -> None:
    patience = Patience(SILENT_S)
    for _ in range(4):
        patience.handle_answer(1.5)
    core = PrefillWatchCore("worker p1", 0.0, patience, own_site=False)
    after_s, gone = until_gone(core, "silent", site_answers=True)
    assert gone is not None and not gone.died
    assert after_s > SILENT_S + 1.5
