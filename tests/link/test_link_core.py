"""The four pieces together, as senders on a simulated line: full, fair, without a long queue, within the budget."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.contracts.to_prefill import EgressLease
from prfaas.link.config import LinkConfig
from prfaas.link.estimate import Sent
from prfaas.link.link_core import LinkCore
from tests.budget import examples

FRAME = 100_000


class SimulatedLink:
    """Frames take their turn on a line of `rate` bytes/s and are acknowledged `rtt_s` later."""

    def __init__(self, core: LinkCore, rate: float, rtt_s: float) -> None:
        self.core, self.rate, self.rtt_s = core, rate, rtt_s
        self.now = self.line_free_at = 0.0
        self.backlog: dict[int, int] = {}
        self.urgent: set[int] = set()
        self.on_the_way: list[tuple[float, int, Sent]] = []
        self.arrived: dict[int, int] = {}
        self.max_queue_s = 0.0

    def add(self, key: int, size: int, tenant: str = "", urgent: bool = False) -> None:
        self.core.join(key, tenant)
        self.backlog[key], self.arrived[key] = size, 0
        if urgent:
            self.urgent.add(key)
        self.offer(key)

    def offer(self, key: int) -> None:
        outstanding = sum(sent.size_bytes for _, owner, sent in self.on_the_way if owner == key)
        self.core.offer(key, min(FRAME, self.backlog[key]), outstanding, urgent=key in self.urgent)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            while (key := self.core.pick(self.now)) is not None:
                sent = self.core.sent(key, self.now)
                size = sent.size_bytes
                self.backlog[key] -= size
                self.max_queue_s = max(self.max_queue_s, self.line_free_at - self.now)
                self.line_free_at = max(self.line_free_at, self.now) + size / self.rate
                self.on_the_way.append((self.line_free_at + self.rtt_s, key, sent))
                self.offer(key)
                self.core.validate()
            wake = [at for at, _, _ in self.on_the_way[:1]]
            budget = self.core.budget_at(self.now)
            wake += [budget] if budget is not None else []
            self.now = max(min([*wake, end]), self.now + 1e-9)
            while self.on_the_way and self.on_the_way[0][0] <= self.now:
                _, key, sent = self.on_the_way.pop(0)
                self.core.delivered(sent, self.now)
                self.arrived[key] += sent.size_bytes
                self.offer(key)


@settings(max_examples=examples(20), deadline=None)
@given(st.floats(1e6, 1e8), st.floats(0.01, 0.1))
def test_the_window_fills_the_link_without_a_long_queue(rate: float, rtt_s: float) -> None:
    core = LinkCore(LinkConfig(min_window_bytes=2 * FRAME, max_window_bytes=1 << 30))
    link = SimulatedLink(core, rate, rtt_s)
    link.add(1, 1 << 40)
    link.run(100 * rtt_s + 10 * FRAME / rate)
    before, link.max_queue_s = link.arrived[1], 0.0
    link.run(100 * rtt_s + 50 * FRAME / rate)
    seconds = 100 * rtt_s + 50 * FRAME / rate
    assert link.arrived[1] - before >= 0.97 * rate * seconds - 2 * FRAME
    assert link.max_queue_s <= 0.75 * rtt_s + 3 * FRAME / rate


def test_the_queue_does_not_grow_over_minutes() -> None:
    """A queue that is never drained would pass for RTT, and the window would follow it upwards."""
    link = SimulatedLink(LinkCore(LinkConfig()), 12.5e6, 0.02)
    link.add(1, 1 << 40)
    link.run(60)
    before, link.max_queue_s = link.arrived[1], 0.0
    link.run(60)
    assert link.arrived[1] - before >= 0.99 * 12.5e6 * 60
    assert link.max_queue_s <= ((1 << 20) + FRAME) / 12.5e6
    assert link.core.estimate.rtt_s == pytest.approx(0.02 + FRAME / 12.5e6, rel=0.5)


def test_two_transfers_share_evenly_and_a_late_one_gets_its_half_at_once() -> None:
    link = SimulatedLink(LinkCore(LinkConfig(min_window_bytes=4 * FRAME)), 1e7, 0.01)
    link.add(1, 1 << 40)
    link.run(5)
    link.add(2, 1 << 40)
    before = link.arrived[1]
    link.run(5)
    assert link.arrived[2] == pytest.approx(link.arrived[1] - before, rel=0.05)


def test_tenants_share_evenly_however_many_transfers_they_have() -> None:
    link = SimulatedLink(LinkCore(LinkConfig(min_window_bytes=4 * FRAME)), 1e7, 0.01)
    for key in range(8):
        link.add(key, 1 << 40, tenant="many")
    link.add(9, 1 << 40, tenant="one")
    link.run(10)
    assert link.arrived[9] == pytest.approx(sum(link.arrived[key] for key in range(8)), rel=0.05)


def test_who_has_a_decode_waiting_goes_first_and_nobody_starves() -> None:
    link = SimulatedLink(LinkCore(LinkConfig(min_window_bytes=4 * FRAME)), 1e7, 0.01)
    link.add(1, 1 << 40)
    link.add(2, 1 << 40, urgent=True)
    link.run(10)
    assert link.arrived[2] == pytest.approx(8 * link.arrived[1], rel=0.1)


@settings(max_examples=examples(20), deadline=None)
@given(st.floats(1e5, 1e7))
def test_the_egress_budget_holds(budget: float) -> None:
    config = LinkConfig(egress_bytes_per_s=budget)
    link = SimulatedLink(LinkCore(config), 1e8, 0.01)
    link.add(1, 1 << 40)
    link.run(20)
    sent = (1 << 40) - link.backlog[1]
    assert 20 * budget - FRAME <= sent <= 20 * budget + 3 * FRAME


def test_who_leaves_gives_its_window_back() -> None:
    core = LinkCore(LinkConfig(min_window_bytes=2 * FRAME, max_window_bytes=2 * FRAME))
    core.join(1)
    core.join(2, "other")
    core.offer(1, FRAME, 2 * FRAME, urgent=False)
    core.offer(2, FRAME, 0, urgent=False)
    assert core.pick(0.0) is None
    core.leave(1)
    core.validate()
    assert core.pick(0.0) == 2
    core.leave(2)
    core.validate()
    assert core.pick(0.0) is None


def test_frames_are_small_where_the_window_is_small_and_never_above_what_the_server_takes() -> None:
    core = LinkCore(LinkConfig(min_window_bytes=512 << 10))
    assert core.frame_bytes(100_000) == 100_000
    core.delivered(Sent(FRAME, 0.0, 0, 0.0), 0.02)
    assert core.frame_bytes(1 << 20) == 128 << 10


def lease(**changes: float) -> EgressLease:
    return msgspec.structs.replace(
        EgressLease(bytes_per_s=None, alone_bytes_per_s=None, share=1.0, ask_again_s=0.1), **changes
    )  # fmt: skip


def test_a_probed_link_is_filled_at_once() -> None:
    core = LinkCore(LinkConfig(max_window_bytes=64 << 20), leased=True)
    core.take(lease(goodput_bytes_per_s=125e6, rtt_s=0.08), 0.0)
    assert core.window_bytes == int(1.25 * 125e6 * 0.08)
    core.delivered(Sent(FRAME, 0.0, 0, 0.0), 0.02)
    core.take(lease(goodput_bytes_per_s=1e9, rtt_s=1.0), 0.0)
    assert core.window_bytes < 2e6


def test_the_window_is_shared_with_the_other_processes_of_the_link() -> None:
    core = LinkCore(LinkConfig(max_window_bytes=64 << 20), leased=True)
    core.take(lease(share=0.25, goodput_bytes_per_s=125e6, rtt_s=0.08), 0.0)
    assert core.window_bytes == int(1.25 * 125e6 * 0.08 / 4)
    core.delivered(Sent(FRAME, 0.0, 0, 0.0), 0.02)
    core.take(lease(share=0.25), 0.0)
    assert core.window_bytes <= (64 << 20) // 4
    narrow = LinkCore(LinkConfig(), leased=True)
    narrow.take(lease(share=0.125, goodput_bytes_per_s=1e6, rtt_s=0.02), 0.0)
    assert narrow.window_bytes == 128 << 10, "eight of them have the least window together, not eight of it"


def test_a_new_link_is_filled_within_a_few_round_trips() -> None:
    rate, rtt_s = 125e6, 0.08
    link = SimulatedLink(LinkCore(LinkConfig(max_window_bytes=64 << 20)), rate, rtt_s)
    link.add(1, 1 << 40)
    link.run(10 * rtt_s)
    before = link.arrived[1]
    link.run(10 * rtt_s)
    assert link.arrived[1] - before >= 0.97 * rate * 10 * rtt_s


def test_a_sender_that_is_the_bottleneck_says_nothing_about_the_link() -> None:
    link = SimulatedLink(LinkCore(LinkConfig()), 1e7, 0.01)
    link.add(1, 0)
    for _ in range(200):
        link.backlog[1] += FRAME
        link.offer(1)
        link.run(0.1)
    assert link.core.estimate.bottleneck_bytes_per_s is None
    link.backlog[1] = 1 << 40
    link.offer(1)
    link.run(2)
    assert link.core.estimate.bottleneck_bytes_per_s == pytest.approx(1e7, rel=0.1)


def test_the_question_for_a_lease_says_what_this_process_sends_and_wants() -> None:
    core = LinkCore(LinkConfig(), leased=True)
    core.take(lease(), 0.0)
    core.join(1)
    core.offer(1, FRAME, 0, urgent=False)
    core.delivered(core.sent(1, 0.0), 0.05)
    asked = core.ask("p1", "home", 10 * FRAME, 0.1)
    assert (asked.worker, asked.destination, asked.transfers, asked.delivered_bytes) == ("p1", "home", 1, FRAME)
    assert asked.wanted_bytes_per_s == 10 * FRAME / 0.1
    assert asked.held_bytes_per_s is None
