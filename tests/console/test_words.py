"""Figures and others' words in a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.console.words import bar, plain, rate, seconds, size, span


@given(st.text())
def test_no_text_of_others_commands_the_terminal(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable() and len(shown) == len(text)


def test_an_escape_sequence_is_shown_as_dots() -> None:
    assert plain("\x1b[2Jm\r\n\x07") == "·[2Jm···"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (seconds(None), "–"), (seconds(0), "0 ms"), (seconds(0.0124), "12 ms"), (seconds(0.9999), "1.00 s"),
        (seconds(12.34), "12.3 s"), (seconds(250), "250 s"), (rate(None), "–"), (rate(0), "0 bit/s"),
        (rate(12.5e6), "100 Mbit/s"),
        (rate(1.5e9), "12.0 Gbit/s"), (rate(1e6), "8.0 Mbit/s"), (size(0), "0 B"), (size(999.6), "1.0 kB"), (size(3e6), "3.0 MB"),
        (size(5e13), "50000.0 GB"), (bar(0.5, 4), "██░░"), (bar(7, 2), "██"), (bar(-1, 2), "░░"),
    ],
)  # fmt: skip
def test_figures_are_short_and_have_their_unit(shown: str, expected: str) -> None:
    assert shown == expected


@given(st.floats(0, 1), st.floats(0, 1), st.integers(4, 200))
def test_a_span_has_the_width_of_its_track_and_is_never_invisible(one: float, other: float, width: int) -> None:
    drawn = span(min(one, other), max(one, other), width)
    assert len(drawn) == width and "█" in drawn
