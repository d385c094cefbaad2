"""The window by itself: sized by rate and RTT, shared, drained, and never oversold."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from prfaas.link.config import LinkConfig
from prfaas.link.window import Window

RATE, RTT_S = 125e6, 0.08
WIDE = LinkConfig(min_window_bytes=1 << 10, max_window_bytes=1 << 40)


def settled(config: LinkConfig) -> Window:
    """A window whose rate has stopped growing."""
    window = Window(config, 0.0)
    for step in range(10):
        window.update(RATE, RTT_S, step * RTT_S)
    return window


def test_it_is_a_little_more_than_rate_times_rtt() -> None:
    assert settled(WIDE).size_bytes == int(1.25 * RATE * RTT_S)


def test_it_stays_within_its_bounds() -> None:
    assert settled(LinkConfig(max_window_bytes=4 << 20)).size_bytes == 4 << 20
    window = Window(LinkConfig(), 0.0)
    window.update(1e3, RTT_S, 0.0)
    assert window.size_bytes == 1 << 20


def test_a_new_link_is_filled_faster_until_its_rate_has_stopped_growing() -> None:
    window = Window(WIDE, 0.0)
    window.update(RATE, RTT_S, 0.0)
    assert window.size_bytes == int(2.5 * RATE * RTT_S)
    window.update(1.1 * RATE, RTT_S, 5 * RTT_S)
    assert window.size_bytes == int(1.25 * 1.1 * RATE * RTT_S)


def test_a_short_rtt_counts_as_ten_milliseconds() -> None:
    window = Window(WIDE, 0.0)
    window.expect(1e8, 1e-4)
    assert window.size_bytes == int(1.25 * 1e8 * 0.01)


def test_it_is_drained_now_and_then_so_that_the_own_queue_does_not_pass_for_rtt() -> None:
    window = settled(WIDE)
    window.hold(1, 1 << 20)
    window.update(RATE, RTT_S, 6.0)
    assert window.size_bytes == int(0.75 * RATE * RTT_S)
    window.update(RATE, RTT_S, 6.0 + (1 << 20) / RATE + RTT_S + 1e-6)
    assert window.size_bytes == int(1.25 * RATE * RTT_S)


def test_a_link_that_was_empty_a_moment_ago_is_not_drained() -> None:
    window = settled(WIDE)
    window.drained(5.5)
    window.update(RATE, RTT_S, 6.0)
    assert window.size_bytes == int(1.25 * RATE * RTT_S)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
def test_a_part_of_the_link_has_that_part_of_the_bounds(share: float) -> None:
    window = settled(LinkConfig(max_window_bytes=4 << 20))
    window.share(share)
    window.clamp()
    assert window.size_bytes == int(share * (4 << 20))


def test_many_processes_have_the_least_window_together() -> None:
    window = Window(LinkConfig(), 0.0)
    window.share(0.125)
    window.expect(1e6, 0.02)
    assert window.size_bytes == 128 << 10


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 1000) | st.none())))
def test_what_is_held_adds_up_and_is_given_back(steps: list[tuple[int, int | None]]) -> None:
    window, held = Window(LinkConfig(), 0.0), dict[int, int]()
    for key, outstanding in steps:
        if outstanding is None:
            window.leave(key)
            held.pop(key, None)
        else:
            window.hold(key, outstanding)
            held[key] = outstanding
        window.validate()
        assert window.outstanding_bytes == sum(held.values())
        assert window.is_open
    window.hold(9, window.size_bytes)
    assert not window.is_open
