"""Changes of the console's state: who follows them has the state itself, whatever happened between."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.console.changes import NOTHING, Encoded, FollowedState, changes, encoded
from prfaas.console.schema import SECTIONS, SiteItem, WorkerItem

names = st.sampled_from(["a", "b", "c", "é", '"<b>'])
sites = st.builds(SiteItem, name=names, own=st.booleans(), prefill_workers=st.integers(0, 9), decode_workers=st.integers(0, 9))
workers = st.builds(
    WorkerItem,
    site=names,
    name=names,
    role=st.sampled_from(["prefill", "decode"]),
    model=names,
    running=st.integers(0, 9),
    slots=st.integers(0, 9),
    waiting=st.integers(0, 9),
    cache_usage=st.none() | st.floats(0, 1),
    draining=st.booleans(),
)
states = st.fixed_dictionaries({"sites": st.dictionaries(names, sites), "workers": st.dictionaries(names, workers)})


@given(st.lists(states, min_size=1, max_size=6))
def test_a_follower_has_each_state_after_its_event(told: list[dict[str, dict[str, msgspec.Struct]]]) -> None:
    shown: Encoded = NOTHING
    followed = FollowedState()
    for number, sections in enumerate(told):
        state = encoded(sections)
        event = changes(shown, state, float(number))
        assert (event is None) == ({k: v for k, v in shown.items() if v} == {k: v for k, v in state.items() if v})
        if event is not None:
            assert b"\n" not in event, "a line of a server-sent event"
            followed.apply(event)
        shown = state
        assert followed.section("sites", SiteItem) == sections["sites"]
        assert followed.section("workers", WorkerItem) == sections["workers"]


def test_only_what_changed_is_told() -> None:
    one = SiteItem(name="a", own=True, prefill_workers=1, decode_workers=1)
    before = encoded({"sites": {"a": one, "b": one}})
    after = encoded({"sites": {"a": one, "c": one}})
    event = msgspec.json.decode(changes(before, after, 5.0) or b"")
    assert (list(event["set"]["sites"]), event["gone"]) == (["c"], {"sites": ["b"]})
    assert changes(after, dict(after), 6.0) is None


def test_sections_and_fields_of_a_later_version_are_left_out() -> None:
    followed = FollowedState()
    followed.apply(
        b'{"at_unix_s": 1, "set": {"moons": {"m": {}}, "sites": {"a": {"name": "a", "own": true, "prefill_workers": 1, '
        b'"decode_workers": 0, "colour": "red"}}}, "gone": {"moons": ["x"]}}'
    )
    assert followed.section("sites", SiteItem) == {"a": SiteItem(name="a", own=True, prefill_workers=1, decode_workers=0)}


@pytest.mark.parametrize("event", [b"", b"[]", b"{}", b'{"at_unix_s": 1, "set": {"sites": {"a": {"name": 3}}}}', b"\xff"])
def test_what_is_no_event_is_refused_and_changes_nothing(event: bytes) -> None:
    followed = FollowedState()
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        followed.apply(event)
    assert all(not followed.section(name, kind) for name, kind in SECTIONS.items())
