"""Names in messages cost nothing to make up: what is remembered of sites has a bound."""

import hypothesis.strategies as st
from hypothesis import given

from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import AttemptEnded, Heartbeat, LinkEstimate, PlaceRequest
from prfaas_scheduler.events import AttemptOver, HeartbeatReceived, LinkMeasured, PlacementRequested, WorkerGone
from prfaas_scheduler.fleet import MAX_SITES
from prfaas_scheduler.policies.baselines import RemoteAll
from prfaas_scheduler.pools import HEARTBEAT_TIMEOUT_S
from prfaas_scheduler.service_core import SchedulerCore


def beat(site: str, role: Role = Role.PREFILL) -> Heartbeat:
    return Heartbeat(site=site, worker="w", role=role, model="m", fingerprint="f", max_context_tokens=9000, slots=4)


def serving() -> SchedulerCore:
    core = SchedulerCore("home", RemoteAll())
    for role in Role:
        core.handle(HeartbeatReceived(0.0, beat("home", role)))
    return core


def test_forged_heartbeats_fill_no_more_than_the_bound_and_make_room_when_silent() -> None:
    core = serving()
    for number in range(2 * MAX_SITES):
        core.handle(HeartbeatReceived(0.0, beat(f"forged{number}")))
    core.validate()
    fleet = core.fleet
    assert len(fleet.sites) == MAX_SITES
    assert len(fleet.alive) <= MAX_SITES * len(Role)
    later_s = HEARTBEAT_TIMEOUT_S + 1
    for key in list(fleet.workers):
        core.handle(WorkerGone(later_s, key))
    for role in Role:
        core.handle(HeartbeatReceived(later_s, beat("home", role)))
    core.handle(HeartbeatReceived(later_s, beat("honest")))
    core.validate()
    assert set(fleet.sites) == {"home", "honest"}
    assert set(fleet.alive) >= {("home", Role.PREFILL), ("honest", Role.PREFILL)}
    assert len(fleet.alive) <= 2 * len(Role)


def test_a_site_with_placed_requests_keeps_its_place() -> None:
    core = serving()
    core.handle(HeartbeatReceived(0.0, beat("far")))
    request = PlaceRequest(request_id="r", model="m", prompt_tokens=100, max_tokens=1, ttft_deadline_s=60.0)
    (answer,) = core.handle(PlacementRequested(0.0, request))
    core.handle(WorkerGone(1.0, "far.prefill.w"))
    for number in range(2 * MAX_SITES):
        core.handle(HeartbeatReceived(1.0, beat(f"forged{number}")))
    core.validate()
    assert answer and "far" in core.fleet.sites
    core.handle(AttemptOver(2.0, AttemptEnded(request_id="r", site="far", verified=True)))
    core.validate()


@given(st.lists(st.tuples(st.integers(0, 3 * MAX_SITES), st.sampled_from(["beat", "link", "ended"])), max_size=60))
def test_no_message_makes_the_memory_of_sites_grow_beyond_its_bound(messages: list[tuple[int, str]]) -> None:
    core = serving()
    for number in range(MAX_SITES - 3):
        core.handle(HeartbeatReceived(0.0, beat(f"s{number}")))
    for number, kind in messages:
        site = f"s{number}"
        match kind:
            case "beat":
                core.handle(HeartbeatReceived(0.0, beat(site)))
            case "link":
                estimate = LinkEstimate(source=site, destination="home", rtt_s=0.1, goodput_bytes_per_s=1e6, samples=1)
                core.handle(LinkMeasured(0.0, estimate))
            case _:
                core.handle(AttemptOver(0.0, AttemptEnded(request_id="x", site=f"never{site}", verified=False)))
        assert len(core.fleet.sites) <= MAX_SITES
    core.validate()
    assert not any(site.startswith("never") for site in core.fleet.sites)
