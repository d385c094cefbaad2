"""Worlds find bugs: each hand-made one by a seed that is known to, or by one of the first few hundred."""

from itertools import chain

import pytest

from load.worlds.mutations import MUTATIONS, Mutation, mutated
from load.worlds.run import find, run_world

SEARCHED = 300
KNOWN_SEEDS: dict[str, int] = {}
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
