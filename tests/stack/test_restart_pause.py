from hypothesis import given
from hypothesis import strategies as st

from prfaas.stack.restart_pause import FIRST_PAUSE_S, LONGEST_PAUSE_S, STABLE_AFTER_S, RestartPause

SOON_S = st.floats(0, STABLE_AFTER_S, exclude_max=True)


@given(st.lists(SOON_S, min_size=1, max_size=20))
def test_pauses_double_up_to_the_longest_while_it_keeps_dying_soon(lives_s: list[float]) -> None:
    pause = RestartPause()
    pauses_s = [pause.after_life(lived_s) for lived_s in lives_s]
    assert pauses_s == [min(FIRST_PAUSE_S * 2**number, LONGEST_PAUSE_S) for number in range(len(lives_s))]


@given(st.lists(SOON_S, max_size=10), st.floats(STABLE_AFTER_S, 1e6))
def test_after_a_long_life_a_death_is_a_first_one(lives_s: list[float], long_s: float) -> None:
    pause = RestartPause()
    for lived_s in lives_s:
        pause.after_life(lived_s)
    assert [pause.after_life(long_s), pause.after_life(0.0)] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S]
