"""A failing link is left alone, and tried again in time."""

import hypothesis.strategies as st
from hypothesis import given

from prfaas.contracts.terms import Outcome, Role
from prfaas_scheduler.breaker import (
    FAILURES_TO_OPEN,
    FIRST_DISTRUST_S,
    FIRST_PAUSE_S,
    MAX_DISTRUST_S,
    MAX_PAUSE_S,
    Breaker,
    BreakerState,
)
from prfaas_scheduler.events import LinkLost, LinkMeasured, SiteDistrusted
from prfaas_scheduler.policies.baselines import RemoteAll
from tests.scheduler.placing import FAR, beat, far_link, over, placed, scheduler


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for number in range(FAILURES_TO_OPEN):
        breaker.failed(str(number), now_s)
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker()
    for number in range(FAILURES_TO_OPEN - 1):
        breaker.failed(str(number), 0.0)
    breaker.succeeded()
    breaker.failed("after", 0.0)
    assert breaker.state(0.0) is BreakerState.CLOSED
    assert opened().state(0.0) is BreakerState.OPEN and not opened().allows(0.0)


def test_half_open_it_allows_one_request_at_a_time() -> None:
    breaker = opened()
    assert breaker.state(FIRST_PAUSE_S) is BreakerState.HALF_OPEN and breaker.allows(FIRST_PAUSE_S)
    breaker.placed("trial", FIRST_PAUSE_S)
    assert not breaker.allows(FIRST_PAUSE_S)
    breaker.abandoned("another")
    assert not breaker.allows(FIRST_PAUSE_S)
    breaker.abandoned("trial")
    assert breaker.allows(FIRST_PAUSE_S), "its client left: the next request may try"


@given(st.integers(1, 12))
def test_pauses_double_with_each_failed_trial_up_to_the_maximum(trials: int) -> None:
    breaker, now_s, pause_s = opened(), 0.0, FIRST_PAUSE_S
    for number in range(trials):
        assert not breaker.allows(now_s + 0.99 * pause_s)
        now_s += pause_s
        assert breaker.allows(now_s)
        breaker.placed(f"trial {number}", now_s)
        breaker.failed(f"trial {number}", now_s)
        pause_s = min(2 * pause_s, MAX_PAUSE_S)
    assert not breaker.allows(now_s + 0.99 * pause_s) and breaker.allows(now_s + pause_s)
    breaker.link_is_back(now_s)
    assert breaker.allows(now_s), "the link was measured again"
    breaker.succeeded()
    assert breaker.state(now_s) is BreakerState.CLOSED


def test_a_link_that_fails_is_left_alone_and_tried_again_by_one_request_at_a_time() -> None:
    core = scheduler(RemoteAll(), beat("home", "d0", Role.DECODE, slots=50), beat("home", "p0", Role.PREFILL), FAR)
    for name in "abc":
        assert placed(core, request_id=name).prefill_site == "far"
        over(core, name, "far", verified=False, code="timeout")
    assert placed(core, request_id="d").outcome is Outcome.LOCAL_NO_REMOTE
    later = 2.5
    assert placed(core, now_s=later, request_id="e").prefill_site == "far", "half open: a trial"
    assert placed(core, now_s=later, request_id="f").prefill_site == "home", "only one trial at a time"
    over(core, "e", "far", later, verified=True)
    assert placed(core, now_s=later, request_id="g").prefill_site == "far"


def test_a_link_that_is_measured_again_is_tried_at_once() -> None:
    core = scheduler(RemoteAll(), beat("home", "d0", Role.DECODE, slots=50), beat("home", "p0", Role.PREFILL), FAR)
    core.handle(LinkMeasured(0.0, far_link()))
    for name in "abc":
        placed(core, request_id=name)
        over(core, name, "far", verified=False, code="timeout")
    core.handle(LinkMeasured(0.5, far_link()))
    assert placed(core, now_s=0.5, request_id="d").outcome is Outcome.LOCAL_NO_REMOTE, "it was there all the time"
    core.handle(LinkLost(1.0, "far.home"))
    core.handle(LinkMeasured(1.5, far_link()))
    assert placed(core, now_s=1.5, request_id="e").outcome is Outcome.OFFLOADED
    assert placed(core, now_s=1.5, request_id="f").outcome is Outcome.LOCAL_NO_REMOTE, "by one request"


def test_distrust_outlasts_successes_and_repairs_of_the_link_and_doubles() -> None:
    """A prefill that is under way when wrong KV is found may still succeed, by the site's own word."""
    breaker = Breaker()
    now_s, pause_s = 0.0, FIRST_DISTRUST_S
    for _ in range(10):
        breaker.distrust(now_s)
        breaker.succeeded()
        breaker.link_is_back(now_s)
        breaker.distrust(now_s + 1.0)  # of a second audit, of the same time
        assert not breaker.allows(now_s + pause_s - 1.0) and not breaker.idle
        assert breaker.allows(now_s + pause_s)
        now_s, pause_s = now_s + pause_s, min(2 * pause_s, MAX_DISTRUST_S)
    assert pause_s == MAX_DISTRUST_S


def test_a_site_whose_kv_was_found_wrong_gets_no_prompt() -> None:
    core = scheduler(RemoteAll(), beat("home", "d0", Role.DECODE, slots=50), beat("home", "p0", Role.PREFILL), FAR)
    assert placed(core, now_s=1.0, request_id="a").prefill_site == "far"
    core.handle(SiteDistrusted(2.0, "a site that nothing is known of"))
    core.handle(SiteDistrusted(2.0, "home"))
    core.handle(SiteDistrusted(2.0, "far"))
    over(core, "a", "far", 2.5, verified=True)
    assert placed(core, now_s=3.0, request_id="b").prefill_site == "home"
    assert core.distrusted_sites(3.0) == 1 and core.distrusted_sites(2.0 + FIRST_DISTRUST_S) == 0
    core.validate()
