"""The pace at which places become free, and what it says of a request that waits."""

from prfaas_gateway.waiting_line import LATEST_PLACES, MIN_PLACES, Pace


def test_nothing_is_said_before_enough_places_became_free() -> None:
    pace = Pace()
    pace.begin(100.0)
    for at in range(MIN_PLACES - 1):
        pace.place_freed(101.0 + at)
    assert pace.first_token_after_s(1000, 110.0) is None


def test_the_pace_is_that_of_the_time_in_which_requests_waited() -> None:
    pace = Pace()
    for at in range(10):
        pace.place_freed(float(at))  # an idle hour ago
    pace.begin(4000.0)
    for at in range(10):
        pace.place_freed(4000.5 + at / 10)
    pace.first_token_came(0.5)
    # 10 places in 2 s: the fifth in the line after 5 * 0.2 s, and its first token 0.5 s later
    assert pace.first_token_after_s(4, 4002.0) == 1.5
    assert pace.first_token_after_s(4, 4010.0) == 5.5, "the pace falls while no place becomes free"


def test_only_the_latest_places_count() -> None:
    pace = Pace()
    pace.begin(0.0)
    for at in range(LATEST_PLACES):
        pace.place_freed(1000.0 + at)
    after_s = pace.first_token_after_s(0, 1000.0 + LATEST_PLACES)
    assert after_s == 1.0
