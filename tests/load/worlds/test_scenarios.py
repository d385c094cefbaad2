"""Worlds that once went wrong, made by hand: no change of how plans are drawn makes other worlds of them."""

from dataclasses import replace

import pytest

from load.worlds.invariants import MOST_DELAY_S, MOST_PREFILLS
from load.worlds.mutation import Mutation, mutated
from load.worlds.plan import HOME, SCHEDULER, Fault, Plan, RequestPlan, WorkerPlan
from load.worlds.world import World
from prfaas.bus.unheard_failures import UnheardFailures
from prfaas.contracts.to_decode import Sampling

FAR = "far1"
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
    dispatchers=(FAR,),
    objective_s=10.0,
    queue_jobs=1024,
    requests=[],
)


def request(name: str, at_s: float, tokens: int, *, ttft_deadline_s: float = 30.0, poison: str = "") -> RequestPlan:
    prompt = tuple((7 * position + len(name) + tokens) % 23 + 1 for position in range(tokens))
    sampling = Sampling(max_tokens=4, seed=1, ignore_eos=True)
    return RequestPlan(name=name, at_s=at_s, prompt=prompt, sampling=sampling, ttft_deadline_s=ttft_deadline_s, poison=poison)


def failures_lost_behind_a_link(seed: int) -> Plan:
    """A job that waits at the far site until the link is half open: nothing of its start, its frames or its failure is heard."""
    requests = [request("first", 1.0, 40), request("second", 1.01, 3)]
    return replace(PLAN, seed=seed, requests=requests, faults=[Fault("half_open", FAR, 1.3, 5.6)])


@pytest.mark.parametrize("seed", range(8))
def test_a_failure_that_a_broken_link_has_swallowed_is_heard_when_it_is_back(seed: int) -> None:
    world = World(failures_lost_behind_a_link(seed)).run()
    assert world.violations == []
    assert all(client.first_token_s < 5.6 + MOST_DELAY_S for client in world.clients)


def test_told_once_only_it_would_cost_most_of_the_deadline() -> None:
    never = Mutation("never again", UnheardFailures, "take_due", lambda _: lambda unheard, now_s: [])
    with mutated(never):
        found = [World(failures_lost_behind_a_link(seed)).run() for seed in range(8)]
    assert any("its first token took" in violation for world in found for violation in world.violations)


@pytest.mark.parametrize("seed", range(4))
def test_a_server_that_ends_attempts_hides_no_more_deaths_than_it_ends_attempts(seed: int) -> None:
    """The prompt's first death passes for a damaged frame, its second for the server's restart."""
    faults = [Fault("flip_stored", HOME, 1.0, 1.0), Fault("server_restart", HOME, 5.0, 1.0)]
    requests = [request("r0", 1.0, 14, poison="deadly")]
    world = World(
        replace(PLAN, seed=seed, profile="storm", requests=requests, faults=faults, token_s=0.002, link_delay_s=0.05)
    ).run()
    assert world.violations == [] and world.clients[0].ends == ["prefill_crash"]
    assert len(world.deaths["r0"]) == MOST_PREFILLS + 1


@pytest.mark.parametrize("seed", range(12))
def test_an_engine_that_fails_does_so_twice_even_where_the_end_of_the_frames_overtakes_the_reason(seed: int) -> None:
    requests = [request(f"r{number}", 1.0 + number, 9, poison="broken") for number in range(4)]
    world = World(replace(PLAN, seed=seed, profile="storm", requests=requests)).run()
    assert world.violations == []
    assert {code for _, code in world.failed_attempts} == {"engine"}
