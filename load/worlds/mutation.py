"""One bug made by hand: a small change of one real core, for a while."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from load.worlds.plan import Plan

Change = Callable[[Any], Any]
"""Takes what is there and returns what takes its place."""


class Mutation(NamedTuple):
    name: str
    owner: Any
    """Class or module that is changed."""
    attribute: str
    change: Change
    faults: tuple[str, ...] = ()
    """Kinds of faults, or poisons, of which a world must have one to show it; none: any world may."""
    profile: str = ""
    """Profile of the worlds that show it; empty: any."""

    def may_show(self, plan: Plan) -> bool:
        """Returns whether a world of this plan is worth running in search of it."""
        return (not self.faults or not plan.fault_kinds.isdisjoint(self.faults)) and self.profile in ("", plan.profile)


@contextmanager
def mutated(mutation: Mutation) -> Iterator[None]:
    """Has the bug in all worlds that are run inside."""
    original = mutation.owner.__dict__[mutation.attribute]
    setattr(mutation.owner, mutation.attribute, mutation.change(original))
    try:
        yield
    finally:
        setattr(mutation.owner, mutation.attribute, original)
