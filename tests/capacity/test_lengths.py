import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.capacity.lengths import EmpiricalLengths, Lengths, TruncatedLogNormal, quantile_midpoints

log_normals = st.builds(
    TruncatedLogNormal,
    mu=st.floats(min_value=5, max_value=11),
    sigma=st.floats(min_value=0.3, max_value=2),
    low_tokens=st.floats(min_value=1, max_value=200),
    high_tokens=st.floats(min_value=20_000, max_value=200_000),
)
empiricals = st.builds(EmpiricalLengths, st.lists(st.integers(min_value=0, max_value=10_000), min_size=1, max_size=50))


def test_the_papers_distribution(paper_lengths: TruncatedLogNormal) -> None:
    """Section 4: p 49.6 %, mean about 27K, mean above t 44K (binary), all at t = 19,400."""
    assert paper_lengths.share_above(19_400) == pytest.approx(0.496, abs=0.001)
    assert paper_lengths.mean_tokens == pytest.approx(27_486, abs=1)
    assert paper_lengths.mean_above(19_400) / 1024 == pytest.approx(44.0, abs=0.05)
    assert paper_lengths.mean_below(19_400) == pytest.approx(10_224, abs=1)
    assert paper_lengths.quantile(0.5) == pytest.approx(19_199, abs=1)


def test_the_closed_form_agrees_with_sampling(paper_lengths: TruncatedLogNormal) -> None:
    source = random.Random(1)
    drawn: list[float] = []
    while len(drawn) < 200_000:
        tokens = source.lognormvariate(9.90, 1.00)
        if 128 <= tokens <= 131072:
            drawn.append(tokens)
    sampled = EmpiricalLengths(drawn)
    assert paper_lengths.mean_tokens == pytest.approx(sampled.mean_tokens, rel=0.01)
    for tokens in (1_000, 10_000, 19_400, 60_000):
        assert paper_lengths.share_above(tokens) == pytest.approx(sampled.share_above(tokens), abs=0.005)
        assert paper_lengths.mean_above(tokens) == pytest.approx(sampled.mean_above(tokens), rel=0.01)
        assert paper_lengths.mean_below(tokens) == pytest.approx(sampled.mean_below(tokens), rel=0.02)


@given(st.one_of(log_normals, empiricals), st.floats(min_value=0, max_value=250_000))
def test_the_two_parts_make_the_whole(lengths: Lengths, tokens: float) -> None:
    share, above, below = lengths.share_above(tokens), lengths.mean_above(tokens), lengths.mean_below(tokens)
    assert 0 <= share <= 1
    assert lengths.low_tokens <= below <= above <= lengths.high_tokens
    assert share * above + (1 - share) * below == pytest.approx(lengths.mean_tokens, rel=1e-6, abs=1e-6)


@given(log_normals, st.floats(min_value=0, max_value=1))
def test_quantile_undoes_share_above(lengths: TruncatedLogNormal, share: float) -> None:
    assert 1 - lengths.share_above(lengths.quantile(share)) == pytest.approx(share, abs=1e-6)


@given(empiricals, st.floats(min_value=0, max_value=1))
def test_an_empirical_quantile_is_a_length_that_was_seen(lengths: EmpiricalLengths, share: float) -> None:
    tokens = lengths.quantile(share)
    assert 1 - lengths.share_above(tokens) >= share - 1e-9
    assert lengths.share_above(tokens - 0.5) > lengths.share_above(tokens)


@given(st.one_of(log_normals, empiricals))
def test_midpoints_stand_for_the_distribution(lengths: Lengths) -> None:
    midpoints = quantile_midpoints(lengths, 2000)
    assert list(midpoints) == sorted(midpoints)
    assert sum(midpoints) / len(midpoints) == pytest.approx(lengths.mean_tokens, rel=0.01, abs=3)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma"):
        TruncatedLogNormal(mu=9, sigma=0, low_tokens=1, high_tokens=2)
    with pytest.raises(ValueError, match="0 < low < high"):
        TruncatedLogNormal(mu=9, sigma=1, low_tokens=10, high_tokens=5)
    with pytest.raises(ValueError, match="leave nothing"):
        TruncatedLogNormal(mu=100, sigma=1, low_tokens=1, high_tokens=10)
    with pytest.raises(ValueError, match="at least one"):
        EmpiricalLengths([])
    with pytest.raises(ValueError, match="below 0"):
        EmpiricalLengths([3, -1])
