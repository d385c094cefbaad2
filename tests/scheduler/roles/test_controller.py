"""Role changes: never the last worker of a role, one at a time, and none any more after a while of constant traffic."""

from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prfaas.bus.endpoint import NatsEndpoint
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat, LinkEstimate
from prfaas_scheduler.config import SchedulerConfig
from prfaas_scheduler.fleet import Fleet
from prfaas_scheduler.roles.controller import START_TIMEOUT_S, RoleController
from prfaas_scheduler.roles.events import BeginMove, MoveOver, MoveRefused, MoveResult, RequestSeen, RoleInstruction, RolesDue
from tests.budget import examples

EVERY_S = 60.0
DRAIN_S = 30.0
SLOTS = 4


def controller(fleet: Fleet, threshold_tokens: float | None = None) -> RoleController:
    return RoleController(fleet, every_s=EVERY_S, drain_s=DRAIN_S, min_gain=0.05, threshold_tokens=threshold_tokens)


@dataclass
class World:
    """A site whose workers beat every second, and the traffic that it has."""

    roles: dict[str, Role]
    prefill_s: float = 3.0
    answer_tokens: float = 100.0
    step_s: float = 0.1
    requests_per_s: float = 2.0
    movable: bool = True
    seen_batch: float = SLOTS
    """Fullest batch seen."""
    tick_s: float = 1.0
    remote_workers: int = 0
    goodput_bytes_per_s: float | None = None
    """Goodput of the link from their site."""
    now_s: float = 0.0
    draining: set[str] = field(default_factory=set)
    log: list[RoleInstruction] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fleet = Fleet("home")
        self.controller = controller(self.fleet)

    def count(self, role: Role) -> int:
        return sum(found is role for found in self.roles.values())

    def beat(self, name: str, role: Role, at: str = "home") -> Heartbeat:
        decodes = role is Role.DECODE
        return Heartbeat(
            site=at,
            worker=name,
            role=role,
            model="m",
            fingerprint="f",
            max_context_tokens=9000,
            prefill_points=() if decodes else ((1000.0, self.prefill_s),),
            kv_points=() if decodes else ((1000.0, 1e6),),
            slots=SLOTS if decodes else 0,
            step_points=((self.seen_batch, self.step_s),) if decodes else (),
            output_tokens=self.answer_tokens if decodes else 0.0,
            movable=self.movable,
            draining=name in self.draining,
        )

    def tick(self) -> None:
        self.now_s += self.tick_s
        self.fleet.advance(self.now_s)
        for name, role in self.roles.items():
            self.fleet.update_worker(self.beat(name, role))
        for index in range(self.remote_workers):
            self.fleet.update_worker(self.beat(f"r{index}", Role.PREFILL, "far"))
        if self.goodput_bytes_per_s:
            goodput = self.goodput_bytes_per_s
            self.fleet.update_link(
                LinkEstimate(source="far", destination="home", rtt_s=0.02, goodput_bytes_per_s=goodput, samples=1)
            )
        for _ in range(round(self.requests_per_s * self.tick_s)):
            self.controller.handle(RequestSeen(self.now_s, "m", 1000))
        self.log += self.controller.handle(RolesDue(self.now_s))
        self.controller.validate()

    def run(self, seconds: float) -> list[RoleInstruction]:
        """Instructions given meanwhile. Moves happen: a second to drain, two to start."""
        before = len(self.log)
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.tick()
            if self.log and isinstance(begun := self.log[-1], BeginMove) and self.controller.moving is begun:
                self.move(begun)
        return self.log[before:]

    def move(self, begun: BeginMove) -> None:
        self.draining.add(begun.worker)
        self.tick()
        self.leave(begun.worker)
        self.tick()
        self.roles[begun.worker] = begun.to_role
        self.tick()

    def leave(self, name: str) -> None:
        self.draining.discard(name)
        self.fleet.remove_worker(f"home.{self.roles.pop(name)}.{name}")


def site(n_prefill: int, n_decode: int, **traits: float) -> World:
    roles = {f"w{index}": Role.PREFILL if index < n_prefill else Role.DECODE for index in range(n_prefill + n_decode)}
    return World(roles, **traits)  # type: ignore[arg-type]


def begun(said: list[RoleInstruction]) -> list[BeginMove]:
    return [instruction for instruction in said if isinstance(instruction, BeginMove)]


def over(said: list[RoleInstruction]) -> list[MoveResult]:
    return [instruction.result for instruction in said if isinstance(instruction, MoveOver)]


def test_where_prefill_is_short_a_decode_worker_moves_and_says_why() -> None:
    world = site(1, 3, prefill_s=1.5, answer_tokens=20)
    said = world.run(10 * EVERY_S)
    assert [(move.role, move.to_role) for move in begun(said)] == [(Role.DECODE, Role.PREFILL)] * 2
    assert over(said) == [MoveResult.DONE] * 2
    assert (world.count(Role.PREFILL), world.count(Role.DECODE)) == (3, 1)
    reason = begun(said)[0].reason
    assert reason.startswith("1 + 3 (prefill + decode) carry 0.667 requests/s, 3 + 1 would carry 200% more: 2 come")


@pytest.mark.parametrize("threshold_tokens", [0.0, 500.0, 5000.0])
def test_without_remote_sites_all_stays_here_whatever_the_threshold(threshold_tokens: float) -> None:
    world = site(1, 3, prefill_s=1.5, answer_tokens=20)
    world.controller = controller(world.fleet, threshold_tokens)
    assert len(begun(world.run(10 * EVERY_S))) == 2


@pytest.mark.parametrize(
    ("threshold_tokens", "goodput_bytes_per_s", "moves"),
    [
        (0.0, None, 0),  # all goes over a link of which nothing is known
        (5000.0, None, 0),
        (None, None, 2),  # what is not known counts as scarce
        (0.0, 1e12, 0),  # the remote site does it
        (5000.0, 1e12, 2),  # nothing is that long
    ],
)
def test_a_remote_site_counts_as_the_policy_uses_it(
    threshold_tokens: float | None, goodput_bytes_per_s: float | None, moves: int
) -> None:
    world = site(1, 3, prefill_s=1.5, answer_tokens=20)
    world.controller = controller(world.fleet, threshold_tokens)
    world.remote_workers, world.goodput_bytes_per_s = 2, goodput_bytes_per_s
    assert len(begun(world.run(10 * EVERY_S))) == moves


def test_traffic_that_turns_moves_it_back() -> None:
    world = site(2, 2, prefill_s=1.5, answer_tokens=20)
    world.run(6 * EVERY_S)
    assert world.count(Role.PREFILL) == 3
    world.prefill_s, world.answer_tokens = 0.5, 120
    said = world.run(10 * EVERY_S)
    assert [move.to_role for move in begun(said)] == [Role.DECODE] * 2
    assert world.count(Role.DECODE) == 3


def test_nobody_moves_for_little_and_nobody_while_few_requests_come() -> None:
    assert not begun(site(2, 2, prefill_s=1.0, answer_tokens=40).run(10 * EVERY_S)), "both carry 2 a second"
    assert not begun(site(1, 3, prefill_s=0.4, answer_tokens=20, requests_per_s=1.0).run(10 * EVERY_S)), "of 2.5"
    assert not begun(site(1, 3, prefill_s=1.5, answer_tokens=20, requests_per_s=0.0).run(10 * EVERY_S))


@pytest.mark.parametrize(("requests_per_s", "seen_batch", "moves"), [(1.0, 1.0, 0), (1.0, SLOTS, 1), (3.0, 1.0, 1)])
def test_batches_that_nobody_saw_are_counted_on_only_when_prefill_is_full(
    requests_per_s: float, seen_batch: float, moves: int
) -> None:
    world = site(1, 3, prefill_s=0.75, answer_tokens=20, seen_batch=seen_batch, requests_per_s=requests_per_s)
    assert len(begun(world.run(10 * EVERY_S))) == moves, "one that prefills carries 1.33 a second"


def test_who_is_not_movable_stays_and_so_does_the_last_of_its_role() -> None:
    world = site(1, 3, prefill_s=1.5, answer_tokens=20)
    world.movable = False
    assert not begun(world.run(10 * EVERY_S))
    assert not begun(site(1, 1, prefill_s=9.0, answer_tokens=1).run(10 * EVERY_S))


def test_one_solve_is_not_enough_and_both_must_see_the_same_workers() -> None:
    world = site(1, 3, prefill_s=1.5, answer_tokens=20)
    world.run(1.5 * EVERY_S)
    assert not begun(world.log), "the first one that has enough requests only wishes"
    world.roles["w9"] = Role.DECODE
    assert not begun(world.run(EVERY_S)), "a worker came: the fleet is in motion"
    assert begun(world.run(EVERY_S))


def test_a_silent_worker_stops_it() -> None:
    world = site(1, 4, prefill_s=1.5, answer_tokens=20)
    world.run(1.5 * EVERY_S)
    world.roles.pop("w4")  # its heartbeat just stops
    assert not begun(world.run(5 * EVERY_S))
    world.fleet.remove_worker("home.decode.w4")
    assert begun(world.run(3 * EVERY_S))


def moving(world: World) -> BeginMove:
    while not (moves := begun(world.log)):
        world.tick()
    return moves[-1]


def test_a_worker_that_says_no_is_asked_after_the_others() -> None:
    world = site(1, 3, prefill_s=1.5, answer_tokens=20)
    first = moving(world)
    (told,) = world.controller.handle(MoveRefused(world.now_s, "it has no configuration for that"))
    assert isinstance(told, MoveOver)
    assert (told.worker, told.result, told.reason) == (first.worker, MoveResult.REFUSED, "it has no configuration for that")
    assert not world.controller.handle(MoveRefused(world.now_s, "late"))
    (again,) = begun(world.run(2.5 * EVERY_S))
    assert again.worker != first.worker


def test_a_worker_that_keeps_its_role_ends_the_move() -> None:
    world = site(1, 3, prefill_s=1.5, answer_tokens=20)
    move = moving(world)
    for _ in range(3):
        world.tick()
    assert world.controller.moving is move, "it may not have heard yet"
    world.draining.add(move.worker)
    world.tick()
    world.draining.clear()
    world.tick()
    assert over(world.log) == [MoveResult.KEPT]


def test_a_worker_that_does_not_come_back_ends_the_move() -> None:
    world = site(1, 3, prefill_s=1.5, answer_tokens=20)
    move = moving(world)
    world.leave(move.worker)
    while world.controller.moving:
        world.tick()
        assert world.now_s < 10 * EVERY_S + DRAIN_S + START_TIMEOUT_S
    assert over(world.log) == [MoveResult.LOST]


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.3, 20.0), st.floats(5.0, 500.0), st.floats(0.02, 0.5), st.integers(1, 4))
def test_with_constant_traffic_it_comes_to_rest_at_a_good_split(
    n_prefill: int, n_decode: int, prefill_s: float, answer_tokens: float, step_s: float, requests_per_s: int
) -> None:
    world = site(
        n_prefill,
        n_decode,
        prefill_s=prefill_s,
        answer_tokens=answer_tokens,
        step_s=step_s,
        requests_per_s=float(requests_per_s),
        tick_s=20.0,
    )
    workers = n_prefill + n_decode
    moves = begun(world.run(3 * EVERY_S * (workers + 2)))
    assert len({move.to_role for move in moves}) <= 1, "always the same way"
    assert len(moves) < workers
    assert not begun(world.run(10 * EVERY_S)), "it rests"

    def carried_req_s(count: int) -> float:
        return min(count / prefill_s, (workers - count) * SLOTS / (step_s * answer_tokens))

    at_rest = carried_req_s(world.count(Role.PREFILL))
    best = max((carried_req_s(count) for count in range(1, workers)), default=at_rest)
    # 300 s of requests, and 64 answers of each worker, tell two rates apart to 2 / sqrt(n).
    worthwhile = max(0.05, 2 / min(300 * requests_per_s, 64 * world.count(Role.DECODE)) ** 0.5)
    assert at_rest >= best / (1 + worthwhile) * 0.99 or requests_per_s < 0.51 * at_rest


class AnyCourse(RuleBasedStateMachine):
    """Workers that come, die, refuse, stay away and change their role unasked, under traffic that does what it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.world = site(2, 2, tick_s=10.0)

    @rule(
        prefill_s=st.sampled_from([0.1, 1.0, 9.0]),
        answer_tokens=st.sampled_from([1.0, 40.0, 900.0]),
        requests_per_s=st.sampled_from([0.0, 1.0, 5.0]),
    )
    def traffic_turns(self, prefill_s: float, answer_tokens: float, requests_per_s: float) -> None:
        self.world.prefill_s, self.world.answer_tokens = prefill_s, answer_tokens
        self.world.requests_per_s = requests_per_s

    @rule(threshold_tokens=st.sampled_from([None, -1.0, 500.0, float("inf")]))
    def scheduler_starts_again(self, threshold_tokens: float | None) -> None:
        self.world.controller = controller(self.world.fleet, threshold_tokens)
        self.world.log.clear()

    @rule(workers=st.integers(0, 2), goodput_bytes_per_s=st.sampled_from([None, 1.0, 1e9]))
    def remote_site_turns(self, workers: int, goodput_bytes_per_s: float | None) -> None:
        self.world.remote_workers, self.world.goodput_bytes_per_s = workers, goodput_bytes_per_s

    @rule(intervals=st.sampled_from([0.2, 1.0, 2.0]))
    def time_passes(self, intervals: float) -> None:
        for _ in range(round(intervals * EVERY_S / self.world.tick_s)):
            counts = {role: self.world.count(role) for role in Role}
            said = len(self.world.log)
            self.world.tick()
            for move in begun(self.world.log[said:]):
                assert self.world.roles[move.worker] is move.role and counts[move.role] > 1, "the last of its role stays"

    @rule(course=st.sampled_from(["done", "refused", "kept", "dies"]))
    def a_move_ends(self, course: str) -> None:
        world, move = self.world, self.world.controller.moving
        if move is None or move.worker not in world.roles:
            return
        match course:
            case "done":
                world.move(move)
            case "refused":
                world.log += world.controller.handle(MoveRefused(world.now_s, "no"))
            case "kept":
                world.draining.add(move.worker)
                world.tick()
                world.draining.discard(move.worker)
                world.tick()
            case "dies":
                world.leave(move.worker)

    @rule(name=st.sampled_from(["w0", "w1", "w2", "w8", "w9"]), role=st.sampled_from(list(Role)))
    def a_worker_comes_or_goes(self, name: str, role: Role) -> None:
        if name in self.world.roles:
            self.world.leave(name)
        else:
            self.world.roles[name] = role

    @invariant()
    def one_at_a_time(self) -> None:
        self.world.controller.validate()
        self.world.fleet.validate()
        under_way = len(begun(self.world.log)) - len(over(self.world.log))
        assert under_way == (self.world.controller.moving is not None)


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=examples(30), stateful_step_count=25, deadline=None)


@pytest.mark.parametrize(
    ("keys", "threshold_tokens"),
    [
        ({"policy": "threshold", "threshold_tokens": 77}, 77),
        ({"policy": "threshold", "resolve_every_s": 5.0}, None),
        ({"policy": "priced"}, None),
        ({"policy": "remote_all"}, -1.0),
        ({"policy": "local_only"}, float("inf")),
    ],
)
def test_it_computes_with_the_fixed_threshold_of_the_policy_if_it_has_one(
    keys: dict[str, object], threshold_tokens: float | None
) -> None:
    control = NatsEndpoint(url="nats://127.0.0.1:1")
    controller = SchedulerConfig(site="home", control=control, **keys).make_roles(Fleet("home"))  # type: ignore[arg-type]
    assert controller is not None and controller._threshold_tokens == threshold_tokens
    assert SchedulerConfig(site="home", control=control, roles_every_s=0).make_roles(Fleet("home")) is None
