"""Worlds hold their invariants, and are the same each time."""

import pytest

from load.worlds.model import faultless
from load.worlds.plan import make_plan
from load.worlds.run import run_world, run_worlds
from load.worlds.world import World
from prfaas.contracts.terms import FinishReason
from prfaas.contracts.to_decode import Sampling

WORLDS = 200


def told(world: World) -> list[object]:
    """Returns what a world shows: answers, ends, moments, and the number of its events."""
    clients = [(client.plan.name, client.token_ids, client.text, client.ends, client.first_token_s) for client in world.clients]
    return [clients, world.clockwork.steps, world.clockwork.now_s, world.violations]


@pytest.mark.slow
def test_worlds_hold_their_invariants() -> None:
    runs = run_worlds(0, WORLDS)
    assert [f"{each.reproduction}: {each.what}" for each in runs.violations] == []
    assert runs.worlds == WORLDS and runs.requests > 3 * WORLDS


def test_worlds_are_not_idle() -> None:
    """All profiles come, most answers are whole, and errors come too."""
    ends = run_worlds(0, 100).ends
    assert {name.split()[0] for name in ends} == {"calm", "single", "storm"}
    assert sum(count for name, count in ends.items() if name.endswith((" length", " stop"))) > 0.5 * sum(ends.values())
    assert len({name.split()[1] for name in ends}) > 4


@pytest.mark.parametrize("seed", [3, 46, 469])
def test_a_seed_decides_everything(seed: int) -> None:
    assert told(run_world(seed)) == told(run_world(seed))


def test_the_faultless_answer_ends_at_max_tokens_a_stop_string_or_an_end_token() -> None:
    long = faultless((1, 2, 3), Sampling(max_tokens=40, ignore_eos=True))
    assert len(long.token_ids) == 40 and long.finish_reason == FinishReason.LENGTH
    stop = long.text[5:8]
    cut = faultless((1, 2, 3), Sampling(max_tokens=40, ignore_eos=True, stop=(stop,)))
    assert cut.finish_reason == FinishReason.STOP and cut.text == long.text[: long.text.index(stop)]
    assert cut.token_ids == long.token_ids[: len(cut.token_ids)]
    ended = [faultless((1, number), Sampling(max_tokens=40)) for number in range(8)]
    assert any(answer.finish_reason == FinishReason.STOP and len(answer.token_ids) < 40 for answer in ended)


def test_a_plan_has_faults_by_its_profile() -> None:
    plans = [make_plan(seed) for seed in range(300)]
    assert all(len(plan.faults) == {"calm": 0, "single": 1}.get(plan.profile, len(plan.faults)) for plan in plans)
    assert {fault.kind for plan in plans for fault in plan.faults} >= {"kill", "stop", "cut", "stall", "flip_stored", "drop"}


@pytest.mark.parametrize("seed", [1002780, 1011260])
def test_an_attempt_that_is_cancelled_while_its_receiver_opens_keeps_nothing(seed: int) -> None:
    """The site's server is away: the opening that is waited for must end with the wait."""
    assert run_world(seed).violations == []


@pytest.mark.parametrize("seed", [2024461, 2029355])
def test_a_consumer_that_could_not_be_deleted_is_deleted_when_its_receiver_reads_again(seed: int) -> None:
    assert run_world(seed).violations == []
