import math
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from prfaas.planner.uncached import uncached_tokens


class Prompt(NamedTuple):
    input_tokens: int
    block_ids: tuple[int, ...]
    block_tokens: int = 10


def test_only_the_leading_blocks_count() -> None:
    prompts = [Prompt(35, (1, 2, 3, 4)), Prompt(35, (1, 2, 5, 6)), Prompt(20, (7, 8)), Prompt(12, (7, 9))]
    assert list(uncached_tokens(prompts)) == [35, 15, 20, 2]


def test_a_wholly_cached_prompt_with_a_partial_last_block_costs_nothing() -> None:
    assert list(uncached_tokens([Prompt(15, (1, 2)), Prompt(15, (1, 2))])) == [15, 0]


def test_the_block_that_was_used_longest_ago_leaves_first() -> None:
    """Room for three blocks: 1 was used again before 4 came, so 2 had to go."""
    prompts = [Prompt(30, (1, 2, 3)), Prompt(10, (1,)), Prompt(10, (4,)), Prompt(10, (1,)), Prompt(10, (3,)), Prompt(10, (2,))]
    assert list(uncached_tokens(prompts, cache_tokens=30)) == [30, 0, 10, 0, 0, 10]


def test_no_cache_no_hits() -> None:
    assert list(uncached_tokens([Prompt(20, (1, 2))] * 3, cache_tokens=0)) == [20, 20, 20]


def chained(contents: list[int]) -> Prompt:
    """Block ids that name their content and all before it."""
    ids = [sum((content + 1) * 4**place for place, content in enumerate(contents[:end])) for end in range(1, len(contents) + 1)]
    return Prompt(10 * len(ids), tuple(ids))


prompts = st.lists(st.lists(st.integers(min_value=0, max_value=2), max_size=6).map(chained), max_size=30)


@given(prompts)
def test_a_finite_cache_that_holds_all_is_an_infinite_one(trace: list[Prompt]) -> None:
    assert list(uncached_tokens(trace, 1000)) == list(uncached_tokens(trace, math.inf))


@given(prompts, st.integers(min_value=0, max_value=9))
def test_never_less_than_with_every_block_cached_nor_more_than_the_prompt(trace: list[Prompt], blocks: int) -> None:
    for prompt, small, large in zip(trace, uncached_tokens(trace, blocks * 10), uncached_tokens(trace), strict=True):
        assert 0 <= large <= small <= prompt.input_tokens
