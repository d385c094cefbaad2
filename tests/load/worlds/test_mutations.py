"""Worlds find bugs: each hand-made one by a seed that is known to, or by one of the first few hundred."""

from itertools import chain

import pytest

from load.worlds.mutations import MUTATIONS, Mutation, mutated
from load.worlds.run import find, run_world

SEARCHED = 400
KNOWN_SEEDS = {
    "a cancelled request keeps its slot": 2,
    "the next attempt has the number of the first": 7,
    "a request ends and its attempt goes on": 26,
    "a late request is not failed": 248,
    "tokens that were sent are not computed again": 69,
    "the fallback site is forgotten": 26,
    "engine failures are not counted": 360,
    "deaths of prefill workers are not counted": 181,
    "one request more than slots": 2,
    "a redelivered job is run": 27,
    "a cancelled job is run": 140,
    "a frame's checksum is not compared": 83,
    "reading again begins one frame too late": 133,
    "a lost delivery is not read again": 669,
    "a sender that goes on skips a frame": 13,
    "an ended transfer keeps its turn": 8,
    "orphans in the bucket are never overdue": 20,
    "the last token is sent again after a move": 69,
    "events are misnumbered after a move": 452,
    "a name that comes back hides the one that died": 805,
    "the breaker never closes": 37,
}
"""Seeds that have found each bug. Another seed may find it after a change of the cores."""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_worlds_find_each_bug(mutation: Mutation) -> None:
    found = find(mutation, chain([KNOWN_SEEDS.get(mutation.name, 0)], range(SEARCHED)))
    assert found.seed is not None
    assert run_world(found.seed).violations == [], "without the bug the same world must hold"


def test_a_bug_is_gone_afterwards() -> None:
    mutation = MUTATIONS[0]
    before = mutation.owner.__dict__[mutation.attribute]
    with mutated(mutation):
        assert mutation.owner.__dict__[mutation.attribute] is not before
    assert mutation.owner.__dict__[mutation.attribute] is before


def test_there_are_at_least_twenty_bugs_of_different_names() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 20
