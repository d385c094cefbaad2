"""Placements: which workers are chosen, what the reason says, and what is refused."""

from array import array
from collections import Counter

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from prfaas.contracts.terms import Outcome, Role
from prfaas.contracts.to_gateway import Placement
from prfaas.contracts.to_scheduler import BlocksChanged, BlocksHeld, LinkEstimate, PlaceRequest
from prfaas_scheduler.events import (
    CacheChanged,
    CacheListed,
    HeartbeatReceived,
    LinkLost,
    LinkMeasured,
    PlacementRequested,
    RequestCacheList,
    WorkerGone,
)
from prfaas_scheduler.fleet import LINK_TIMEOUT_S
from prfaas_scheduler.policies.base import Policy
from prfaas_scheduler.policies.baselines import LocalOnly, RemoteAll
from prfaas_scheduler.policies.priced import Priced
from prfaas_scheduler.policies.threshold import Threshold
from prfaas_scheduler.pools import HEARTBEAT_TIMEOUT_S
from prfaas_scheduler.service_core import SchedulerCore
from tests.scheduler.placing import SPEED, STEPS, beat, far_link, over, placed, refused, scheduler


def test_local_only_stays_and_remote_all_goes() -> None:
    assert placed(scheduler(LocalOnly())).prefill_site == "home"
    answer = placed(scheduler(RemoteAll()))
    assert (answer.prefill_site, answer.fallback_site, answer.outcome) == ("far", "home", Outcome.OFFLOADED)


@given(st.integers(2, 20_000), st.integers(0, 20_000))
def test_threshold_counts_what_must_be_prefilled(prompt_tokens: int, threshold: int) -> None:
    answer = placed(scheduler(Threshold(threshold)), prompt_tokens)
    offloaded = prompt_tokens - 1 > threshold
    assert answer.prefill_site == ("far" if offloaded else "home")
    assert answer.outcome is (Outcome.OFFLOADED if offloaded else Outcome.LOCAL_SHORT)
    assert str(threshold) in answer.reason and str(prompt_tokens - 1) in answer.reason


def test_a_silent_worker_is_dead_and_a_deleted_one_too() -> None:
    core = scheduler(RemoteAll())
    late = HEARTBEAT_TIMEOUT_S + 1
    assert refused(core, now_s=late).code == "no_decode_worker"
    core.handle(HeartbeatReceived(late, beat("home", "d0", Role.DECODE)))
    core.handle(HeartbeatReceived(late, beat("home", "p0", Role.PREFILL)))
    answer = placed(core, now_s=late)
    assert (answer.prefill_site, answer.outcome) == ("home", Outcome.LOCAL_NO_REMOTE)
    core.handle(WorkerGone(late, "home.prefill.p0"))
    assert refused(core, now_s=late).code == "no_prefill_worker"


def test_an_unknown_model_and_a_full_fleet_are_refused_with_a_time_to_come_back() -> None:
    core = scheduler(LocalOnly())
    answer = refused(core, model="other")
    assert answer.code == "no_decode_worker" and "'other'" in answer.message and answer.retry_after_s > 0
    for _ in range(3):
        placed(core)
    assert refused(core).code == "overloaded"
    core.handle(HeartbeatReceived(1.0, beat("home", "d0", Role.DECODE, running=1)))
    placed(core, now_s=1.0)


def test_kv_that_the_decode_worker_could_not_install_is_not_asked_for() -> None:
    core = scheduler(
        RemoteAll(),
        beat("home", "d0", Role.DECODE),
        beat("home", "p0", Role.PREFILL),
        beat("far", "p1", Role.PREFILL, fingerprint="another build"),
    )
    assert placed(core).prefill_site == "home"


def test_a_draining_worker_gets_nothing() -> None:
    core = scheduler(LocalOnly())
    core.handle(HeartbeatReceived(0.0, beat("home", "d0", Role.DECODE, draining=True)))
    assert refused(core).code == "no_decode_worker"


def test_the_least_loaded_decode_worker_is_chosen_also_between_beats() -> None:
    core = scheduler(
        LocalOnly(),
        beat("home", "d0", Role.DECODE),
        beat("home", "d1", Role.DECODE),
        beat("home", "p0", Role.PREFILL),
    )
    assert {placed(core).decode_worker for _ in range(2)} == {"d0", "d1"}


def test_a_request_that_a_decode_worker_refused_goes_to_another_one_and_is_counted_once() -> None:
    core = scheduler(
        RemoteAll(),
        beat("home", "d0", Role.DECODE),
        beat("home", "d1", Role.DECODE, running=1),
        beat("home", "p0", Role.PREFILL),
        beat("far", "p1", Role.PREFILL),
    )
    assert placed(core).decode_worker == "d0"
    assert placed(core, refused_by=("d0",)).decode_worker == "d1"
    assert len(core.fleet.site_state("far").backlog) == 1
    assert placed(core, request_id="next").decode_worker == "d0", "the others' loads are still in order"
    answer = refused(core, refused_by=("d0", "d1"))
    assert (answer.code, answer.message) == ("overloaded", "all decode workers of model 'm' refused the request: d0, d1")


def test_with_an_objective_the_decode_worker_with_the_faster_steps_gets_more() -> None:
    slow = {**STEPS, "step_points": ((1.0, 0.02), (40.0, 0.12))}
    beats = [beat("home", "fast", Role.DECODE, slots=40, **STEPS), beat("home", "slow", Role.DECODE, slots=40, **slow)]
    for objective_s, share in ((0.0, 10), (0.04, 15)):
        core = scheduler(LocalOnly(), *beats, beat("home", "p0", Role.PREFILL), tpot_objective_s=objective_s)
        chosen = [placed(core, request_id=str(number)).decode_worker for number in range(20)]
        assert chosen.count("fast") == share


def test_the_fallback_leaves_the_local_site_time() -> None:
    core = scheduler(RemoteAll())
    assert placed(core).fallback_after_s == 15.0, "nothing is known of the local speed: half"
    core.handle(HeartbeatReceived(0.0, beat("home", "p0", Role.PREFILL, prefill_points=((100.0, 0.1), (8000.0, 8.0)))))
    slow = placed(core, 8001).fallback_after_s
    assert slow == 30.0 - 1.5 * 8.0
    assert placed(core, 101).fallback_after_s == 21.0, "never more than 70 %"
    core.handle(HeartbeatReceived(0.0, beat("home", "d0", Role.DECODE)))
    assert placed(core, 30_000).fallback_after_s == 21.0, "the local site could not save the deadline"


def test_two_remote_sites_share_by_queue() -> None:
    core = scheduler(
        RemoteAll(),
        beat("home", "d0", Role.DECODE, slots=8),
        beat("home", "p0", Role.PREFILL, **SPEED),
        beat("far", "p1", Role.PREFILL, **SPEED),
        beat("farther", "p2", Role.PREFILL, **SPEED),
    )
    assert placed(core, 4001, request_id="a").prefill_site == "far"
    assert placed(core, 401, request_id="b").prefill_site == "farther"
    assert placed(core, 401, request_id="c").prefill_site == "farther", "its queue is the shorter one"
    over(core, "a", "far", 1.0)
    assert placed(core, 401, 1.0, request_id="d").prefill_site == "far"


def test_a_placement_whose_end_is_not_reported_expires_with_its_deadline() -> None:
    core = scheduler(RemoteAll())
    placed(core, 4001, request_id="a")
    assert len(core.fleet.site_state("far").backlog) == 1
    core.handle(HeartbeatReceived(31.0, beat("home", "d0", Role.DECODE)))
    assert len(core.fleet.site_state("far").backlog) == 0
    core.validate()


def test_a_fallback_moves_the_work_to_the_site_that_does_it_now() -> None:
    core = scheduler(RemoteAll())
    placed(core, 4001, request_id="a")
    over(core, "a", "far", verified=False, code="timeout", next_site="home")
    assert (len(core.fleet.site_state("far").backlog), len(core.fleet.site_state("home").backlog)) == (0, 1)
    over(core, "a", "home")
    assert len(core.fleet.site_state("home").backlog) == 0


def test_link_estimates_are_kept_by_direction() -> None:
    core = scheduler(RemoteAll())
    core.handle(LinkMeasured(0.0, LinkEstimate(source="far", destination="home", rtt_s=0.02, goodput_bytes_per_s=1e6, samples=1)))
    assert core.fleet.prefill_sites("m", "f")["far"].link is not None
    assert core.fleet.prefill_sites("m", "f")["home"].link is None


@pytest.mark.parametrize("lost", ["silent", "withdrawn"])
def test_a_link_of_which_nothing_is_known_any_more_is_scarce(lost: str) -> None:
    slow = {"prefill_points": ((100.0, 5.0), (8000.0, 400.0)), "kv_points": ((1.0, 1e4), (8000.0, 8e7))}
    fast = slow | {"prefill_points": ((100.0, 0.5), (8000.0, 40.0))}
    home, far = beat("home", "p0", Role.PREFILL, **slow), beat("far", "p1", Role.PREFILL, **fast)
    core = scheduler(Priced(10.0), beat("home", "d0", Role.DECODE, slots=9), home, far)
    core.handle(LinkMeasured(0.0, far_link()))
    assert placed(core, request_id="a").outcome is Outcome.OFFLOADED
    later = LINK_TIMEOUT_S + 0.1 if lost == "silent" else 0.1
    if lost == "withdrawn":
        core.handle(LinkLost(later, "far.home"))
    for heard in (beat("home", "d0", Role.DECODE, slots=9), home, far):
        core.handle(HeartbeatReceived(later, heard))
    assert placed(core, now_s=later, request_id="b").outcome is Outcome.LOCAL_LINK_SCARCE
    core.handle(LinkMeasured(later, far_link()))
    assert placed(core, now_s=later, request_id="c").outcome is Outcome.OFFLOADED


# ---- cached prefixes


def hashes(count: int, first: int = 1) -> bytes:
    return bytes(array("Q", range(first, first + count)))


def stores(core: SchedulerCore, site: str, worker: str, role: Role, stored: bytes, now_s: float = 0.0) -> list[RequestCacheList]:
    changed = BlocksChanged(site=site, worker=worker, role=role, incarnation="i", sequence=1, stored=stored)
    return core.handle(CacheChanged(now_s, changed))


def ask(core: SchedulerCore, prompt_tokens: int, request_id: str, now_s: float = 0.0) -> Placement:
    request = PlaceRequest(
        request_id=request_id,
        model="m",
        prompt_tokens=prompt_tokens,
        max_tokens=8,
        ttft_deadline_s=30.0,
        block_hashes=hashes(prompt_tokens // 512),
        block_tokens=512,
    )
    (answered,) = core.handle(PlacementRequested(now_s, request))
    core.validate()
    assert isinstance(answered.answer, Placement), answered.answer
    return answered.answer


def caching_fleet(policy: Policy) -> SchedulerCore:
    beats = [beat("home", name, Role.DECODE, slots=16) for name in ("d0", "d1")]
    beats += [beat("home", name, Role.PREFILL, **SPEED) for name in ("p0", "p1", "p2")]
    return scheduler(policy, *beats, beat("far", "p0", Role.PREFILL, **SPEED))


def test_the_worker_with_the_prefix_is_asked_until_its_queue_is_longer_than_what_it_saves() -> None:
    core = caching_fleet(LocalOnly())
    stores(core, "home", "p1", Role.PREFILL, hashes(10))
    first = ask(core, 6001, "a")
    assert first.prefill_worker == "p1" and "5120 of 6000 tokens cached at p1" in first.reason
    chosen = [ask(core, 6001, f"b{number}").prefill_worker for number in range(12)]
    assert "p1" in chosen and None in chosen
    for name in ["a", *(f"b{number}" for number in range(12))]:
        over(core, name, "home", 1.0)
    assert ask(core, 6001, "c", 1.0).prefill_worker == "p1"


def test_the_last_token_is_never_prefilled_so_a_block_that_ends_with_it_is_of_no_use() -> None:
    core = caching_fleet(LocalOnly())
    stores(core, "home", "p1", Role.PREFILL, hashes(4))
    assert "1536 of 2047 tokens cached" in ask(core, 2048, "a").reason
    assert "2048 of 2048 tokens cached" in ask(core, 2049, "b").reason


def test_routes_by_uncached_length() -> None:
    core = caching_fleet(Threshold(1000))
    assert ask(core, 6001, "a").prefill_site == "far"
    stores(core, "home", "p2", Role.PREFILL, hashes(10))
    answer = ask(core, 6001, "b")
    assert (answer.prefill_site, answer.prefill_worker, answer.outcome) == ("home", "p2", Outcome.LOCAL_SHORT)
    assert "880 uncached tokens <= t = 1000" in answer.reason


def test_the_decode_worker_with_the_prefix_is_taken_unless_it_is_much_more_loaded() -> None:
    core = caching_fleet(RemoteAll())
    stores(core, "home", "d1", Role.DECODE, hashes(10))
    answers = [ask(core, 6001, str(number)) for number in range(8)]
    assert answers[0].decode_worker == "d1" and "5120 at decode worker d1" in answers[0].reason
    loads = Counter(answer.decode_worker for answer in answers)
    assert loads["d1"] > loads["d0"] > 0, "it may be a little more loaded"
    owed = {placed.site: core.fleet.site_state(placed.site).backlog.kv_bytes for placed in core.fleet.placed.values()}
    assert owed["far"] < 8 * core.fleet.prefill_sites("m", "f")["far"].kv_bytes(6000)


def test_what_a_worker_had_cached_goes_with_it() -> None:
    core = caching_fleet(LocalOnly())
    stores(core, "home", "p1", Role.PREFILL, hashes(10))
    core.handle(WorkerGone(1.0, "home.prefill.p1"))
    assert ask(core, 6001, "a", 1.0).prefill_worker is None
    assert core.fleet.directory.blocks == 0


def test_a_worker_is_asked_what_it_holds_when_it_is_found_and_when_something_was_missed() -> None:
    core = SchedulerCore("home", LocalOnly())
    found = beat("home", "p1", Role.PREFILL)
    (asked,) = core.handle(HeartbeatReceived(0.0, found))
    assert (asked.site, asked.role, asked.worker, asked.key) == ("home", Role.PREFILL, "p1", found.key)
    core.handle(CacheListed(0.1, found.key, BlocksHeld(incarnation="i", sequence=7, hashes=hashes(3))))
    assert core.handle(HeartbeatReceived(1.0, found)) == []
    missed = BlocksChanged(site="home", worker="p1", role=Role.PREFILL, incarnation="i", sequence=9)
    assert [asked.worker for asked in core.handle(CacheChanged(2.0, missed))] == ["p1"]
    assert core.fleet.directory.blocks == 3


def test_a_decode_worker_that_is_started_again_has_nothing_of_the_old_one() -> None:
    core = scheduler(RemoteAll(), *(beat("home", "d0", Role.DECODE, incarnation="i", running=1), beat("far", "p1", Role.PREFILL)))
    core.handle(CacheChanged(0.0, BlocksChanged(site="home", worker="d0", role=Role.DECODE, incarnation="i", sequence=1)))
    placed(core, 1000, request_id="a")
    assert core.fleet.placed and core.fleet.workers["home.decode.d0"].load == 2
    core.handle(HeartbeatReceived(0.1, beat("home", "d0", Role.DECODE, incarnation="i", running=1)))
    assert core.fleet.placed, "the same process still has it"
    core.handle(HeartbeatReceived(0.2, beat("home", "d0", Role.DECODE, incarnation="j")))
    assert not core.fleet.placed and core.fleet.workers["home.decode.d0"].load == 0
    core.validate()


def test_a_trial_whose_decode_worker_is_gone_does_not_keep_the_breaker_from_another_one() -> None:
    core = scheduler(RemoteAll())
    for request_id in "abc":
        placed(core, request_id=request_id)
        over(core, request_id, "far", verified=False, code="timeout")
    breaker = core.fleet.site_state("far").breaker
    for beats in (beat("home", "d0", Role.DECODE, incarnation="j"), None):
        core.handle(HeartbeatReceived(3.0, beat("far", "p1", Role.PREFILL)))
        core.handle(HeartbeatReceived(3.0, beat("home", "d0", Role.DECODE, incarnation="i")))
        assert placed(core, request_id="trial", now_s=3.0).prefill_site == "far"
        assert not breaker.allows(3.0)
        core.handle(WorkerGone(3.0, "home.decode.d0") if beats is None else HeartbeatReceived(3.0, beats))
        assert breaker.allows(3.0)


def test_a_trial_that_is_placed_again_does_not_keep_the_breaker_from_another_one() -> None:
    core = scheduler(RemoteAll())
    for request_id in "abc":
        placed(core, request_id=request_id)
        over(core, request_id, "far", verified=False, code="timeout")
    for heard in (beat("home", "d0", Role.DECODE), beat("home", "d1", Role.DECODE), beat("home", "p0", Role.PREFILL)):
        core.handle(HeartbeatReceived(3.0, heard))
    core.handle(HeartbeatReceived(3.0, beat("far", "p1", Role.PREFILL)))
    breaker = core.fleet.site_state("far").breaker
    first = placed(core, now_s=3.0, request_id="trial")
    again = placed(core, now_s=3.0, request_id="trial", refused_by=(first.decode_worker,))
    assert [first.prefill_site, again.prefill_site] == ["far", "far"] and not breaker.allows(3.0)
    core.fleet.withdraw("trial")
    placed(core, 1, now_s=3.0, request_id="without prefill")
    assert breaker.allows(3.0), "what needs no prefill tries no link"


def test_a_worker_that_is_started_again_holds_none_of_the_old_blocks() -> None:
    core = scheduler(RemoteAll())
    stored = BlocksChanged(
        site="far", worker="p1", role=Role.PREFILL, incarnation="i", sequence=1, stored=array("Q", [7]).tobytes()
    )
    core.handle(HeartbeatReceived(0.0, beat("far", "p1", Role.PREFILL, incarnation="i")))
    core.handle(CacheChanged(0.0, stored))
    assert core.fleet.directory.blocks == 1
    asked = core.handle(HeartbeatReceived(0.1, beat("far", "p1", Role.PREFILL, incarnation="j")))
    assert core.fleet.directory.blocks == 0 and [each.worker for each in asked] == ["p1"]
    core.handle(CacheChanged(0.2, msgspec.structs.replace(stored, incarnation="k")))
    core.handle(HeartbeatReceived(0.3, beat("far", "p1", Role.PREFILL, incarnation="k")))
    assert core.fleet.directory.blocks == 1, "what the new process announced before its first heartbeat counts"
    core.validate()
