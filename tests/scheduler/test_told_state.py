"""The scheduler's answer to who shows the site's state: what it decides by, and what it knows at that moment."""

from typing import Any

import msgspec

from prfaas.contracts.scheduler_state import SchedulerState
from prfaas.contracts.terms import Role
from prfaas.contracts.wire import decode, encode
from prfaas_scheduler.config import SchedulerConfig
from prfaas_scheduler.events import HeartbeatReceived, LinkMeasured, SiteDistrusted
from prfaas_scheduler.fleet import LINK_TIMEOUT_S
from prfaas_scheduler.service_core import SchedulerCore
from prfaas_scheduler.told_state import told_state
from tests.scheduler.placing import SPEED, beat, far_link, over, placed, scheduler


def config(**keys: Any) -> SchedulerConfig:
    raw = {"site": "home", "control": {"url": "nats://127.0.0.1:4222"}, "threshold-tokens": 50, "resolve-every-s": 0} | keys
    return msgspec.convert(raw, SchedulerConfig)


def core_of(made: SchedulerConfig) -> SchedulerCore:
    return scheduler(
        made.make_policy(),
        beat("home", "d0", Role.DECODE),
        beat("home", "p0", Role.PREFILL, **SPEED),
        beat("far", "p1", Role.PREFILL, **SPEED),
    )


def told(made: SchedulerConfig, core: SchedulerCore, now_s: float) -> SchedulerState:
    return decode(encode(told_state(made, core, 3, now_s)), SchedulerState)


def test_it_says_its_threshold_its_links_and_what_a_link_owes_until_the_prefill_is_over() -> None:
    made = config()
    core = core_of(made)
    core.handle(LinkMeasured(0.0, far_link()))
    placed(core, 4000, request_id="r1")
    state = told(made, core, 0.0)
    assert (state.name, state.term, state.policy, state.threshold_tokens) == (made.name, 3, "threshold", 50)
    assert state.links == (far_link(),)
    far, home = state.sites
    assert (far.site, far.placed, home.placed) == ("far", 1, 0)
    assert far.owed_bytes > 1e8 and home.owed_bytes == 0
    over(core, "r1", "far")
    assert told(made, core, 0.0).sites[0].owed_bytes == 0


def test_a_policy_without_a_threshold_says_none_and_an_old_link_is_left_out() -> None:
    made = config(policy="priced")
    core = core_of(made)
    core.handle(LinkMeasured(0.0, far_link()))
    assert told(made, core, 0.0).threshold_tokens is None
    assert told(made, core, LINK_TIMEOUT_S + 1).links == ()


def test_a_site_that_made_wrong_kv_is_shown_as_distrusted() -> None:
    made = config()
    core = core_of(made)
    core.handle(SiteDistrusted(1.0, "far"))
    assert [(site.site, site.distrusted, site.breaker) for site in told(made, core, 1.0).sites] == [
        ("far", True, "open"),
        ("home", False, "closed"),
    ]


def test_many_sites_fit_into_one_answer() -> None:
    made = config()
    core = core_of(made)
    for number in range(400):
        core.handle(HeartbeatReceived(0.0, beat(f"site{number}", "p", Role.PREFILL)))
    assert len(told(made, core, 0.0).sites) <= 256
