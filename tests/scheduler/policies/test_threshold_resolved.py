"""The threshold that follows what is observed: where it goes, when it stays, and what it says."""

import random
from array import array
from collections.abc import Callable

import pytest

from prfaas.bus.endpoint import NatsEndpoint
from prfaas.capacity.builtin import builtin_profile
from prfaas.capacity.lengths import TruncatedLogNormal
from prfaas.capacity.mean_work import mean_work_limits
from prfaas.capacity.profiles import Profile
from prfaas.capacity.threshold import PrefillStage
from prfaas.contracts.terms import Outcome, Role
from prfaas.contracts.to_gateway import Placement
from prfaas.contracts.to_scheduler import AttemptEnded, BlocksChanged, Heartbeat, LinkEstimate, PlaceRequest
from prfaas_scheduler.config import SchedulerConfig
from prfaas_scheduler.events import AttemptOver, CacheChanged, HeartbeatReceived, LinkMeasured, PlacementRequested
from prfaas_scheduler.policies.threshold import Threshold
from prfaas_scheduler.policies.threshold_resolved import (
    CALM_S,
    MAX_FACTOR,
    MIN_REQUESTS,
    NO_ROOM_S,
    RATE_REQUESTS,
    ROOM_S,
    STEP,
    SURGE_S,
    WINDOW_REQUESTS,
    ResolvedThreshold,
)
from prfaas_scheduler.service_core import SchedulerCore
from tests.scheduler.policies.places import FAST, SLOW, busy, choose, site

EVERY_S = 5.0
SPACING_S = 0.4
"""Time between two requests: 2.5 a second, where the best t carries 3.15."""
PAPER_LENGTHS = TruncatedLogNormal(mu=9.90, sigma=1.00, low_tokens=128, high_tokens=131_072)
SAMPLE = [round(PAPER_LENGTHS.quantile((index + 0.5) / 512)) for index in range(512)]
random.Random(3).shuffle(SAMPLE)
FULL, TENTH = 100e9 / 8, 2e9 / 8
H20, H200 = builtin_profile("paper-1t-h20"), builtin_profile("paper-1t-h200-anchored")


def hashes(blocks: int) -> bytes:
    return bytes(array("Q", range(1, 1 + blocks)))


def carried_share(threshold_tokens: int) -> float:
    """Rate that a threshold carries, as a share of the best one's."""
    home = PrefillStage(3, H20.prefill_s, H20.kv_bytes)
    limits = mean_work_limits(SAMPLE, home, [PrefillStage(4, H200.prefill_s, H200.kv_bytes, FULL)])
    return limits.at(threshold_tokens) / limits.best()[1]


class World:
    """The paper's case in heartbeats: four H200 and three H20 that prefill."""

    def __init__(self, start_tokens: int) -> None:
        self.policy = ResolvedThreshold(start_tokens, EVERY_S)
        self.core = SchedulerCore("home", self.policy)
        self.now_s, self.count = 0.0, 0
        self.goodput_bytes_per_s: float | None = FULL

    def run(self, lengths: list[int], known_blocks: int = 0) -> list[Placement]:
        """One request every SPACING_S; each ends before the next one comes. Each begins with `known_blocks` more."""
        answers = []
        for tokens in lengths:
            self.now_s += SPACING_S
            self.count += 1
            self._beat()
            request = PlaceRequest(
                request_id=f"r{self.count}",
                model="m",
                prompt_tokens=known_blocks * 512 + tokens + 1,
                max_tokens=8,
                ttft_deadline_s=30.0,
                block_hashes=hashes(known_blocks),
                block_tokens=512,
            )
            (answered,) = self.core.handle(PlacementRequested(self.now_s, request))
            assert isinstance(answered.answer, Placement)
            answers.append(answered.answer)
            ended = AttemptEnded(request_id=request.request_id, site=answered.answer.prefill_site, verified=True)
            self.core.handle(AttemptOver(self.now_s, ended))
        self.core.validate()
        return answers

    def is_scarce(self) -> bool:
        return self.policy.bandwidth_scarce

    def _beat(self) -> None:
        for index in range(4):
            self._prefill("far", index, builtin_profile("paper-1t-h200-anchored"))
        for index in range(3):
            self._prefill("home", index, builtin_profile("paper-1t-h20"))
        decoder = Heartbeat(
            site="home", worker="d0", role=Role.DECODE, model="m", fingerprint="f", max_context_tokens=1 << 18, slots=99
        )
        self.core.handle(HeartbeatReceived(self.now_s, decoder))
        if self.goodput_bytes_per_s is not None:
            estimate = LinkEstimate(
                source="far", destination="home", rtt_s=0.02, goodput_bytes_per_s=self.goodput_bytes_per_s, samples=5
            )
            self.core.handle(LinkMeasured(self.now_s, estimate))

    def _prefill(self, site: str, index: int, profile: Profile) -> None:
        beat = Heartbeat(
            site=site,
            worker=f"p{index}",
            role=Role.PREFILL,
            model="m",
            fingerprint="f",
            max_context_tokens=1 << 18,
            prefill_points=tuple((point.tokens, point.prefill_s) for point in profile.prefill),
            kv_points=tuple((point.tokens, point.kv_bytes) for point in profile.prefill),
        )
        self.core.handle(HeartbeatReceived(self.now_s, beat))


@pytest.mark.parametrize("start_tokens", [0, 1024, 100_000])
def test_from_the_papers_profiles_it_finds_the_papers_threshold(start_tokens: int) -> None:
    world = World(start_tokens)
    before = world.run(SAMPLE[: MIN_REQUESTS - 1])
    assert all(f"t = {start_tokens}, as configured" in answer.reason for answer in before)
    after = world.run(SAMPLE)
    assert carried_share(world.policy.threshold_tokens) > 0.95, "19,400 tokens carry all for the whole distribution"
    assert f"t = {world.policy.threshold_tokens}, solved at" in after[-1].reason


def test_a_good_threshold_stays() -> None:
    """Every window has another best t; moving for nothing swings both queues."""
    world = World(19_400)
    found = set()
    for seed in range(4):
        world.run(random.Random(seed).sample(SAMPLE, 300))
        found.add(world.policy.threshold_tokens)
    assert found == {19_400}


def controlled(here_s: float, there_s: float, *, factor: float = 1.0, link_owes_s: float = 0.0) -> float:
    """Factor after a second of control with these waits of both sites."""
    policy = ResolvedThreshold(19_400, EVERY_S)
    policy.factor = factor
    here = busy(site("home", SLOW), here_s)
    there = busy(site("far", FAST, goodput_bytes_per_s=1e9), there_s, link_owes_s * 1e9)
    choose(policy, 1000, here, there)
    assert policy.threshold_tokens == round(19_400 * policy.factor)
    return policy.factor


def test_a_queue_that_surges_moves_t_towards_the_side_that_has_room() -> None:
    assert controlled(0.5, 0.5 + SURGE_S) == pytest.approx(STEP), "far is behind: more stays"
    assert controlled(0.5 + SURGE_S, 0.5) == pytest.approx(1 / STEP)
    assert controlled(0.5, 0.5, link_owes_s=0.5 + SURGE_S) == pytest.approx(STEP), "its link is behind"
    assert controlled(0.5, 60.0, factor=MAX_FACTOR) == MAX_FACTOR
    assert controlled(60.0, 0.5, factor=1 / MAX_FACTOR) == pytest.approx(1 / MAX_FACTOR)


def test_between_surge_and_calm_and_between_room_and_none_t_stays_where_it_is() -> None:
    for here_s, there_s in ((0.0, (SURGE_S + CALM_S) / 2), ((ROOM_S + NO_ROOM_S) / 2, 60.0)):
        for factor in (1.0, 1.3, 0.7):
            assert controlled(here_s, there_s, factor=factor) == factor == controlled(there_s, here_s, factor=factor)


@pytest.mark.parametrize(("here_s", "there_s"), [(0.2, 0.2 + CALM_S / 2), (NO_ROOM_S + 1, 60.0), (60.0, NO_ROOM_S + 1)])
def test_t_comes_back_when_both_are_calm_and_when_neither_has_room(here_s: float, there_s: float) -> None:
    assert 1.0 < controlled(here_s, there_s, factor=1.3) < 1.3
    assert 0.7 < controlled(here_s, there_s, factor=0.7) < 1.0


@pytest.mark.parametrize("requests", [64, 256, 1024])
def test_samples_of_one_traffic_hardly_ever_move_the_threshold_that_is_best_for_it(requests: int) -> None:
    """t of the whole distribution, and fifty samples of it."""
    moved = 0
    for seed in range(50):
        policy = ResolvedThreshold(19_400, EVERY_S)
        chance = random.Random(seed)
        home = site("home", tuple((point.tokens, point.prefill_s) for point in H20.prefill), workers=3)
        far = site("far", tuple((point.tokens, point.prefill_s) for point in H200.prefill), workers=4, goodput_bytes_per_s=FULL)
        for _ in range(requests):
            policy._requests.append((tokens := round(PAPER_LENGTHS.quantile(chance.random())), tokens))
        policy._resolve(home.site, [far.site])
        moved += policy.solved_tokens != 19_400
    assert moved <= 2


def test_while_more_comes_than_any_threshold_carries_a_small_gain_moves_nothing() -> None:
    """Two balanced sides would both be late; a threshold that is far off is mended all the same."""
    moved = {}
    for start_tokens in (13_000, 100_000):
        policy = ResolvedThreshold(start_tokens, EVERY_S)
        home = site("home", tuple((point.tokens, point.prefill_s) for point in H20.prefill), workers=3)
        far = site("far", tuple((point.tokens, point.prefill_s) for point in H200.prefill), workers=4, goodput_bytes_per_s=FULL)
        policy._requests.extend((tokens, tokens) for tokens in SAMPLE * 4)
        for rate_req_s in (4.0, 2.0):
            policy._arrived_at.extend(number / rate_req_s for number in range(RATE_REQUESTS))
            policy._resolve(home.site, [far.site])
            moved[start_tokens, rate_req_s] = policy.solved_tokens != start_tokens
    assert moved == {(13_000, 4.0): False, (13_000, 2.0): True, (100_000, 4.0): True, (100_000, 2.0): True}


def test_what_the_far_site_has_cached_is_no_work_there() -> None:
    """Half of the prompts come back to the far site, which has nearly all of them: so it has room for the others."""
    home = site("home", tuple((point.tokens, point.prefill_s) for point in H20.prefill), workers=3)
    far = site("far", tuple((point.tokens, point.prefill_s) for point in H200.prefill), workers=4, goodput_bytes_per_s=FULL)
    found = []
    uncached_there: list[Callable[[int], int]] = [
        lambda tokens: tokens,
        lambda tokens: tokens // 10 if tokens > 19_400 else tokens,
    ]
    for there in uncached_there:
        policy = ResolvedThreshold(19_400, EVERY_S)
        policy._requests.extend((tokens, there(tokens)) for tokens in SAMPLE)
        policy._resolve(home.site, [far.site])
        found.append(policy.solved_tokens)
    assert found[0] == 19_400 and found[1] < 15_000


def test_it_follows_the_link_down_and_up_within_an_interval() -> None:
    world = World(19_400)
    world.run(SAMPLE)
    before = world.policy.threshold_tokens
    assert not world.is_scarce()
    world.goodput_bytes_per_s = TENTH
    scarce = world.run(SAMPLE)[int(EVERY_S / SPACING_S) + 1 :]
    high = world.policy.threshold_tokens
    assert high > 2 * before and world.is_scarce()
    kept = [answer for answer in scarce if answer.outcome is Outcome.LOCAL_LINK_SCARCE]
    assert kept and all("if the links were faster, t = " in answer.reason for answer in kept)
    assert {answer.outcome for answer in scarce} == {Outcome.LOCAL_SHORT, Outcome.LOCAL_LINK_SCARCE, Outcome.OFFLOADED}
    world.goodput_bytes_per_s = FULL
    after = world.run(SAMPLE)[int(EVERY_S / SPACING_S) + 1 :]
    assert world.policy.threshold_tokens == pytest.approx(before, rel=0.15) and not world.is_scarce()
    assert Outcome.LOCAL_LINK_SCARCE not in {answer.outcome for answer in after}


def test_it_solves_for_what_is_not_cached() -> None:
    world = World(1024)
    world.run([1])
    for name in ("home", "far"):
        changed = BlocksChanged(site=name, worker="p1", role=Role.PREFILL, incarnation="i", sequence=1, stored=hashes(100))
        world.core.handle(CacheChanged(world.now_s, changed))
    answers = world.run(SAMPLE, known_blocks=100)
    assert carried_share(world.policy.threshold_tokens) > 0.95, "as if the 51,200 tokens before did not exist"
    assert {answer.prefill_worker for answer in answers if answer.prefill_site == "home"} == {"p1"}


def test_without_a_measured_link_it_goes_on_with_what_it_had() -> None:
    world = World(1024)
    world.goodput_bytes_per_s = None
    answers = world.run(SAMPLE)
    assert world.policy.threshold_tokens == 1024
    assert answers[-1].reason.endswith("t = 1024, as configured")


@pytest.mark.slow
def test_the_window_forgets() -> None:
    world = World(1024)
    world.run(SAMPLE)
    world.run([length // 100 + 1 for length in SAMPLE] * (WINDOW_REQUESTS // len(SAMPLE)))
    assert world.policy.threshold_tokens < 1311, "nothing is longer than a hundredth of what was"


@pytest.mark.parametrize(("every_s", "kind"), [(0.0, Threshold), (30.0, ResolvedThreshold)])
def test_it_is_chosen_by_configuration_and_both_are_called_threshold(every_s: float, kind: type[Threshold]) -> None:
    config = SchedulerConfig(
        site="home", control=NatsEndpoint(url="nats://127.0.0.1:1"), threshold_tokens=77, resolve_every_s=every_s
    )
    policy = config.make_policy()
    assert type(policy) is kind and (policy.name, policy.threshold_tokens) == ("threshold", 77)
    assert SchedulerConfig(site="home", control=config.control).resolve_every_s == 0.0, "fixed is the default"
