"""Budgets of the property tests: the profile of a run scales them all."""

from hypothesis import settings

_USUAL_EXAMPLES = 100


def examples(count: int) -> int:
    """Number of examples, of a property that is worth `count` in the whole suite, in this run's profile."""
    profile = settings.default
    assert profile is not None, "hypothesis has a profile as soon as it is imported"
    return max(1, count * profile.max_examples // _USUAL_EXAMPLES)
