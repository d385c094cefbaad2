"""Worlds find bugs: each hand-made one, in those of the first seeds that may show it."""

import pytest

from load.worlds.mutation import Mutation, mutated
from load.worlds.mutations import MUTATIONS
from load.worlds.run import find, run_world

SEARCHED = 3000
"""Seeds of which one must find each bug. Most are found by one of the first fifty."""


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_worlds_find_each_bug(mutation: Mutation) -> None:
    found = find(mutation, range(SEARCHED))
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
