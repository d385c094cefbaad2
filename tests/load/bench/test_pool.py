"""`make bench-pool`: what it replays and reports."""

from load.bench.pool import BLOCK_TOKENS, ORDERS, TARGET_TOKENS, Hits, Point, Prompt, bound, measure, replayed, summary

CONVERSATIONS = [
    Prompt(tokens=turn * 2 * BLOCK_TOKENS + 1, blocks=[talk * 100 + block for block in range(2 * turn)])
    for turn in range(1, 5)
    for talk in range(3)
]


def test_a_large_pool_finds_the_bound_and_a_small_one_less() -> None:
    most = bound(CONVERSATIONS)
    assert most.share == 3 * (2 + 4 + 6) * BLOCK_TOKENS / sum(prompt.tokens for prompt in CONVERSATIONS)
    for options in ORDERS.values():
        assert replayed(CONVERSATIONS, 10**6, **options).hits() == most  # type: ignore[arg-type]
        assert 0 <= replayed(CONVERSATIONS, 8 * BLOCK_TOKENS, **options).hits().share < most.share  # type: ignore[arg-type]


def test_the_summary_speaks_for_one_size_of_both_traces() -> None:
    points = [
        point
        for name in ("mooncake", "agentic")
        for point in measure(name, CONVERSATIONS, (4 * BLOCK_TOKENS, TARGET_TOKENS), bound(CONVERSATIONS))
    ]
    assert all(isinstance(point, Point) and isinstance(point.hits, Hits) for point in points)
    assert summary(points) == {
        f"{trace}_hit_of_bound{suffix}": 1.0 for trace in ("mooncake", "agentic") for suffix in ("", "_lru", "_checkpoints")
    }
