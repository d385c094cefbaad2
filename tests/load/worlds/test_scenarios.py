"""Worlds that once went wrong, made by hand: no change of how plans are drawn makes other worlds of them."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from load.worlds import attempting
from load.worlds.invariants import MOST_ADDED_S, MOST_PREFILLS
from load.worlds.mutation import Mutation, mutated
from load.worlds.plan import HOME, SCHEDULER, Fault, Plan, RequestPlan, WorkerPlan
from load.worlds.world import World
from prfaas.bus.unheard_failures import UnheardFailures
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_decode import Sampling
from prfaas.transfer.sender_core import SenderCore
from prfaas.transfer.sender_events import SendFrame

FAR = "far1"
MOST_LOSS_S = 3.0
"""Most that any fault may cost beyond the work."""
PLAN = Plan(
    seed=1,
    profile="single",
    remotes=(FAR,),
    prefill_workers=[WorkerPlan(name="pd-p0", site=HOME), WorkerPlan(name="far1-p0", site=FAR)],
    decode_workers=[WorkerPlan(name="pd-d0", site=HOME), WorkerPlan(name="pd-d1", site=HOME)],
    slots=4,
    waiting=8,
    policy="remote_all",
    link_delay_s=0.005,
    token_s=0.01,
    step_s=0.02,
    schedulers=(SCHEDULER,),
    sealed=(),
    audited=False,
    liar="",
    dispatchers=(FAR,),
    objective_s=10.0,
    queue_jobs=1024,
    requests=[],
)


def request(name: str, at_s: float, tokens: int, *, ttft_deadline_s: float = 30.0, poison: str = "") -> RequestPlan:
    prompt = tuple((7 * position + len(name) + tokens) % 23 + 1 for position in range(tokens))
    sampling = Sampling(max_tokens=4, seed=1, ignore_eos=True)
    return RequestPlan(name=name, at_s=at_s, prompt=prompt, sampling=sampling, ttft_deadline_s=ttft_deadline_s, poison=poison)


def failure_that_a_link_swallows(seed: int) -> World:
    """An engine fails at the far site while the link is broken for a moment."""
    requests = [request("r0", 1.0, 9, ttft_deadline_s=8.0, poison="broken")]
    faults = [Fault("half_open", FAR, 1.03, 0.3)]
    return World(replace(PLAN, seed=seed, profile="storm", requests=requests, faults=faults)).run()


def codes(world: World) -> set[str]:
    return {code for _, code in world.failed_attempts}


@pytest.mark.parametrize("seed", range(8))
def test_a_failure_that_a_broken_link_has_swallowed_is_heard_when_it_is_back(seed: int) -> None:
    world = failure_that_a_link_swallows(seed)
    # The storm before it may lose the queue's own answer too.
    assert world.violations == [] and codes(world) - {FailureCode.JOB_NOT_QUEUED} == {"engine"}


def test_told_once_only_it_would_pass_for_a_prefill_that_takes_long() -> None:
    never = Mutation("never again", UnheardFailures, "take_due", lambda _: lambda unheard, now_s: [])
    with mutated(never):
        found = [codes(failure_that_a_link_swallows(seed)) - {FailureCode.JOB_NOT_QUEUED} for seed in range(8)]
        assert any(each != {"engine"} for each in found)


def test_a_job_that_waits_behind_a_broken_link_costs_seconds() -> None:
    requests = [request("first", 1.0, 40), request("second", 1.01, 3)]
    plan = replace(PLAN, requests=requests, faults=[Fault("half_open", FAR, 1.3, 5.6)])
    for seed in range(8):
        world = World(replace(plan, seed=seed)).run()
        assert world.violations == []
        assert all(client.first_token_s < 5.6 + MOST_ADDED_S for client in world.clients)


@pytest.mark.parametrize("kind", ["kill", "stop"])
@pytest.mark.parametrize("dispatchers", [(FAR,), (HOME, FAR)])
def test_a_job_in_the_queue_of_a_site_that_has_lost_all_its_workers_is_prefilled_at_home(
    kind: str, dispatchers: tuple[str, ...]
) -> None:
    """The worker has the first job when it is lost; the second one waits in the site's queue."""
    requests = [request("first", 1.0, 40), request("second", 1.1, 3)]
    plan = replace(PLAN, token_s=0.03, dispatchers=dispatchers, requests=requests, faults=[Fault(kind, "far1-p0", 1.3, 8.0)])
    first_work_s = 40 * plan.token_s
    worlds = [World(replace(plan, seed=seed)).run() for seed in range(8)]
    assert [world.violations for world in worlds] == [[]] * len(worlds)
    waited = [client for world in worlds for client in world.clients if client.plan.name == "second"]
    # A stopped worker is given up by both at about the same time: at home the second may wait behind the first.
    assert all(client.first_token_s < MOST_LOSS_S + (first_work_s if kind == "stop" else 0.0) for client in waited)
    moved = [client for world in worlds for client in world.clients if client.plan.name == "first"]
    assert all(client.first_token_s < MOST_LOSS_S + 2 * first_work_s for client in moved)
    assert any("no_prefill_worker" in codes(world) for world in worlds)


def jobs_lost_on_their_way() -> list[World]:
    """The worker's connection breaks at moments around the one at which its server hands it a job."""
    plan = replace(PLAN, dispatchers=(HOME, FAR), policy="local_only", requests=[request("r0", 1.0, 4)])
    moments = [1.001 + number / 5000 for number in range(20)]
    return [
        World(replace(plan, seed=seed, faults=[Fault("unplug", "pd-p0", at_s, 0.5)])).run()
        for seed in range(6)
        for at_s in moments
    ]


def test_a_job_that_is_lost_on_its_way_to_its_worker_costs_seconds() -> None:
    worlds = jobs_lost_on_their_way()
    assert [world.violations for world in worlds] == [[]] * len(worlds)
    assert any("worker_lost" in codes(world) for world in worlds), "none is lost"


@pytest.mark.parametrize("seed", range(4))
def test_a_server_that_ends_attempts_hides_no_more_deaths_than_it_ends_attempts(seed: int) -> None:
    """The prompt's first death passes for a damaged frame, its second for the server's restart."""
    faults = [Fault("flip_stored", HOME, 1.0, 1.0), Fault("server_restart", HOME, 5.0, 1.0)]
    requests = [request("r0", 1.0, 14, poison="deadly")]
    world = World(
        replace(PLAN, seed=seed, profile="storm", requests=requests, faults=faults, token_s=0.002, link_delay_s=0.05)
    ).run()
    assert world.violations == [] and world.clients[0].ends == ["prefill_crash"]
    assert MOST_PREFILLS <= len(world.deaths["r0"]) <= MOST_PREFILLS + 1


@pytest.mark.parametrize("seed", range(12))
def test_an_engine_that_fails_does_so_twice_even_where_the_end_of_the_frames_overtakes_the_reason(seed: int) -> None:
    requests = [request(f"r{number}", 1.0 + number, 9, poison="broken") for number in range(4)]
    world = World(replace(PLAN, seed=seed, profile="storm", requests=requests)).run()
    assert world.violations == []
    assert {code for _, code in world.failed_attempts} == {"engine"}


def job_stored_twice(seed: int) -> World:
    """The far server is started again after it has stored a job, and before that is heard. Its memory of the job goes with it.

    The decode worker tries a second time, as it does at its own site: at another one it has time for a single try."""
    plan = replace(
        PLAN,
        seed=seed,
        prefill_workers=[*PLAN.prefill_workers, WorkerPlan(name="far1-p1", site=FAR)],
        link_delay_s=0.05,
        token_s=0.03,
        requests=[request("r0", 1.0, 14)],
        faults=[Fault("server_restart", FAR, 1.085, 0.9)],
    )
    with pytest.MonkeyPatch.context() as patience:
        patience.setattr(attempting, "REMOTE_QUEUE_S", 3.0)
        return World(plan).run()


def test_a_job_that_is_stored_twice_has_one_author_all_the_same() -> None:
    worlds = [job_stored_twice(seed) for seed in range(12)]
    assert [world.violations for world in worlds] == [[]] * len(worlds)
    assert any(len(authors) == 2 for world in worlds for authors in world.authors.values()), "none is computed twice"


def test_senders_that_claimed_no_object_would_mix_their_frames() -> None:
    def unclaimed(send: Callable[[SenderCore, float], list[SendFrame]]) -> Callable[[SenderCore, float], list[SendFrame]]:
        return lambda core, now_s: [order._replace(expected_last_sequence=None) for order in send(core, now_s)]

    with mutated(Mutation("claims nothing", SenderCore, "_send", unclaimed)):
        found = [violation for seed in range(12) for violation in job_stored_twice(seed).violations]
    assert any("has frames of" in violation for violation in found)
