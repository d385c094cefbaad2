from hypothesis import given
from hypothesis import strategies as st

from prfaas_gateway.body_places import BodyPlace, BodyPlaces


def test_the_oldest_body_of_the_client_with_the_most_gives_way() -> None:
    places = BodyPlaces(max_arriving=3, max_bytes=100)
    first, second, other = (places.enter(client)[0] for client in ("slow", "slow", "quick"))
    _, given_up = places.enter("quick")
    assert given_up == [first]
    assert places.enter("third")[1] == [other], "now `quick` holds the most"
    places.leave(second)
    assert places.enter("fourth")[1] == []


def test_bytes_are_taken_from_the_client_that_holds_the_most() -> None:
    places = BodyPlaces(max_arriving=9, max_bytes=100)
    small, large = places.enter("a")[0], places.enter("b")[0]
    assert places.grow(small, 30) == []
    assert places.grow(large, 60) == []
    assert places.grow(small, 20) == [large]
    assert places.held_bytes == 50


def test_a_whole_body_does_not_give_way() -> None:
    places = BodyPlaces(max_arriving=1, max_bytes=100)
    whole, _ = places.enter("a")
    places.grow(whole, 90)
    places.arrived(whole)
    new, given_up = places.enter("b")
    assert given_up == []
    assert places.grow(new, 20) == [new]
    places.leave(whole)
    assert places.held_bytes == 0


@given(st.data())
def test_bounds_hold_and_every_body_that_gives_way_is_told_once(data: st.DataObject) -> None:
    places = BodyPlaces(max_arriving=data.draw(st.integers(1, 4)), max_bytes=data.draw(st.integers(1, 50)))
    open_: list[BodyPlace] = []
    for _ in range(data.draw(st.integers(0, 30))):
        given_up: list[BodyPlace] = []
        match data.draw(st.sampled_from(["enter", "grow", "whole", "leave"])):
            case "enter":
                place, given_up = places.enter(data.draw(st.sampled_from("abc")))
                open_.append(place)
            case "grow" if arriving := [place for place in open_ if places.is_arriving(place)]:
                given_up = places.grow(data.draw(st.sampled_from(arriving)), data.draw(st.integers(0, 40)))
            case "whole" if open_:
                places.arrived(data.draw(st.sampled_from(open_)))
            case "leave" if open_:
                place = data.draw(st.sampled_from(open_))
                open_.remove(place)
                places.leave(place)
        assert len(set(given_up)) == len(given_up)
        for place in given_up:
            assert not places.is_arriving(place)
            open_.remove(place)
        places.validate()
        assert len(places) == len(open_)
