"""State of the system as the console shows it: from heartbeats, the scheduler's word, and the gateway's own requests."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from prfaas.console.changes import NOTHING, FollowedState, changes
from prfaas.console.schema import SOLE, GatewayItem, LinkItem, RequestItem, SchedulerItem, SiteItem, WorkerItem
from prfaas.contracts.scheduler_state import SchedulerState, SiteState
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat, LinkEstimate
from prfaas_gateway.console.console_core import MAX_WORKERS, ConsoleCore
from tests.gateway.console.seen import answered

FAR = LinkEstimate(
    source="far", destination="home", rtt_s=0.02, goodput_bytes_per_s=1e7, samples=3, budget_bytes_per_s=8e6, sent_bytes_per_s=2e6
)
STATE = SchedulerState(
    name="scheduler", term=4, policy="threshold", threshold_tokens=512, ttft_objective_s=10.0,
    sites=(SiteState(site="far", wait_s=1.5, placed=2, owed_bytes=3e6), SiteState(site="home")), links=(FAR,),
)  # fmt: skip


def core(**settings: Any) -> ConsoleCore:
    return ConsoleCore("home", "gateway", ("m",), **({"keys": False} | settings))


def beat(site: str, role: Role, worker: str, **fields: Any) -> Heartbeat:
    return Heartbeat(site=site, worker=worker, role=role, fingerprint="f", max_context_tokens=9, **({"model": "m"} | fields))


def shown(made: ConsoleCore, tenant: str | None = None, now_s: float = 0.0) -> FollowedState:
    made.validate()
    state = FollowedState()
    state.apply(changes(NOTHING, made.sections(tenant, now_s, 5000.0), 5000.0) or b"")
    return state


def test_sites_links_and_workers_come_from_heartbeats_and_the_schedulers_word() -> None:
    made = core()
    for each in (beat("home", Role.DECODE, "d0", running=3, slots=8, cache_usage=0.5), beat("far", Role.PREFILL, "p0")):
        made.handle_beat(each.key, each)
    made.handle_scheduler(STATE, 0.0)
    state = shown(made)
    far = SiteItem(name="far", own=False, prefill_workers=1, decode_workers=0, wait_s=1.5, placed=2)
    assert state.section("sites", SiteItem)["far"] == far
    link = state.section("links", LinkItem)["far.home"]
    assert (link.budget_bytes_per_s, link.sent_bytes_per_s, link.owed_bytes) == (8e6, 2e6, 3e6)
    worker = state.section("workers", WorkerItem)["home.decode.d0"]
    assert (worker.running, worker.slots, worker.cache_usage) == (3, 8, 0.5)
    assert state.section("scheduler", SchedulerItem)[SOLE].threshold_tokens == 512
    made.handle_beat("far.prefill.p0", None)
    assert list(shown(made).section("workers", WorkerItem)) == ["home.decode.d0"]


def test_a_scheduler_that_is_silent_is_shown_so() -> None:
    made = core()
    assert shown(made).section("scheduler", SchedulerItem) == {}
    made.handle_scheduler(STATE, 100.0)
    assert shown(made, now_s=103.0).section("scheduler", SchedulerItem)[SOLE].silent_s == 0
    assert shown(made, now_s=130.0).section("scheduler", SchedulerItem)[SOLE].silent_s == 30


def test_a_tenant_sees_its_own_requests_and_nothing_of_others() -> None:
    made = core(keys=True)
    for name, tenant in (("r1", "hash-of-a"), ("r2", "hash-of-b")):
        request = answered(name, tenant=tenant, client_request_id=f"secret-of-{tenant}")
        made.requests.began(request)
        made.requests.ended(request, 5000.0)
    own = made.sections("hash-of-a", 0.0, 5000.0)
    assert list(own["requests"]) == ["r1"]
    assert b"hash-of" not in b"".join(item for items in own.values() for item in items.values()), "no name of any tenant"
    assert made.detail("hash-of-a", "r2", 0.0) is None and made.detail("hash-of-a", "r1", 0.0) is not None
    assert made.detail("", "r1", 0.0) is None, "a tenant that was never seen"
    assert set(made.sections(None, 0.0, 5000.0)["requests"]) == {"r1", "r2"}
    assert not shown(made, "hash-of-a").section("gateway", GatewayItem)[SOLE].whole


def test_thousands_of_workers_are_counted_and_not_told() -> None:
    made = core()
    for number in range(MAX_WORKERS + 7):
        each = beat("far", Role.PREFILL, f"p{number}")
        made.handle_beat(each.key, each)
    state = shown(made)
    assert len(state.section("workers", WorkerItem)) == MAX_WORKERS
    assert state.section("gateway", GatewayItem)[SOLE].hidden_workers == 7


@given(st.text(max_size=600), st.text(max_size=600))
def test_any_text_of_others_is_shortened_and_fits_into_an_event(model: str, reason: str) -> None:
    made = core()
    each = beat("far", Role.PREFILL, "p0", model=model[:512])
    made.handle_beat(each.key, each)
    request = answered(client_request_id=reason[:256])
    request.placed("far", reason, "d0", 100.3)
    made.requests.ended(request, 5000.0)
    assert len(changes(NOTHING, made.sections(None, 0.0, 5000.0), 5000.0) or b"") < 8000
    assert len(msgspec.json.encode(made.detail(None, "r1", 200.0))) < 8000


def test_a_full_state_is_below_half_a_mebibyte() -> None:
    made = core()
    for number in range(2 * MAX_WORKERS):
        each = beat("s" * 64, Role.PREFILL, f"{'w' * 58}{number}", model="m" * 512)
        made.handle_beat(each.key, each)
    for number in range(100):
        request = answered(f"{number:032}", model="m" * 512)
        request.error = "e" * 900
        made.requests.ended(request, 5000.0)
    event = changes(NOTHING, made.sections(None, 0.0, 5000.0), 5000.0) or b""
    assert len(event) < 1 << 19
    assert len(shown(made).section("requests", RequestItem)) == 50
