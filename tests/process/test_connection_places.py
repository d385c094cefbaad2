from hypothesis import given
from hypothesis import strategies as st

from prfaas.process.connection_places import ConnectionPlaces

STEPS = st.lists(st.tuples(st.sampled_from(["enter", "head_came", "answered", "leave"]), st.integers(0, 30)), max_size=120)


@given(limit=st.integers(1, 8), steps=STEPS)
def test_only_connections_without_a_request_give_way_and_only_in_a_full_house(limit: int, steps: list[tuple[str, int]]) -> None:
    places: ConnectionPlaces[int] = ConnectionPlaces(limit)
    silent: list[int] = []
    idle: list[int] = []
    busy: set[int] = set()
    for number, (step, pick) in enumerate(steps):
        present = sorted({*silent, *idle, *busy})
        chosen = present[pick % len(present)] if present else -1
        if step == "enter":
            full = len(present) >= limit
            # Numbers from 1: a connection that is false must not be taken for none.
            gave_way = places.enter(number + 1)
            if not full or not (silent or idle):
                assert gave_way is None
            else:
                assert gave_way == (silent or idle).pop(0), "the oldest silent one, else the one idle for longest"
            silent.append(number + 1)
        elif step == "leave":
            places.leave(chosen)
            silent, idle = [each for each in silent if each != chosen], [each for each in idle if each != chosen]
            busy.discard(chosen)
        elif chosen != -1:
            silent, idle = [each for each in silent if each != chosen], [each for each in idle if each != chosen]
            busy.discard(chosen)
            if step == "head_came":
                places.head_came(chosen)
                busy.add(chosen)
            else:
                places.answered(chosen)
                idle.append(chosen)
        assert len(places) == len(silent) + len(idle) + len(busy)
        assert places.excess <= max(0, len(busy) + 1 - limit), "above the limit there are busy ones and the newest only"


def test_what_has_left_does_not_come_back_by_a_late_word() -> None:
    places: ConnectionPlaces[str] = ConnectionPlaces(1)
    places.enter("a")
    assert places.enter("b") == "a"
    places.head_came("a")
    places.answered("a")
    assert len(places) == 1 and places.closed["gave_way"] == 1
