"""Places of viewers."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas_gateway.console.viewers import Viewers
from prfaas_gateway.openai.errors import ApiError


@given(st.integers(1, 20), st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_places_are_bounded_for_all_and_for_each(most: int, steps: list[tuple[str, bool]]) -> None:
    viewers, held = Viewers(most), []
    for client, comes in steps:
        if comes:
            place = ExitStack()
            try:
                place.enter_context(viewers.enter(client))
            except ApiError as error:
                assert error.status == 429
            else:
                held.append(place)
        elif held:
            held.pop().close()
        viewers.validate()
        assert len(viewers) == len(held)


def test_one_client_leaves_places_for_others_and_a_sole_place_is_for_anyone() -> None:
    viewers = Viewers(4)
    with viewers.enter("a"), viewers.enter("a"):
        with pytest.raises(ApiError, match="viewers"), viewers.enter("a"):
            pass
        with viewers.enter("b"), viewers.enter("c"):
            assert len(viewers) == 4
    with Viewers(1).enter("a"):
        pass
