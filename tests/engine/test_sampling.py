"""Sampling on small logits whose answer is known."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.protocol import BadLogitsError, SampledToken
from prfaas.engine.sampling import Sampler, sample

PROBABILITIES = torch.tensor([0.5, 0.3, 0.15, 0.05])
LOGITS = PROBABILITIES.log()


def sampler(temperature: float = 1.0, top_p: float = 1.0, seed: int | None = 0, **others: Any) -> Sampler:
    return Sampler(Sampling(max_tokens=1, temperature=temperature, top_p=top_p, seed=seed, **others))


def draw(logits: torch.Tensor, one: Sampler, forbid_eos: bool = False) -> SampledToken:
    return sample(logits[None].clone(), [one], [forbid_eos], {0})[0]


def counts(one: Sampler, draws: int) -> Counter[int]:
    return Counter(draw(LOGITS, one).token_id for _ in range(draws))


def test_greedy_takes_the_most_likely_token_of_each_row() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, -1.0, 4.9]])
    tokens = sample(logits, [sampler(temperature=0)] * 2, [False] * 2, {2})
    assert [token.token_id for token in tokens] == [1, 0]
    assert tokens[0].logprob is None


def test_tokens_come_as_often_as_their_probability_says() -> None:
    drawn = counts(sampler(seed=1), 4000)
    for token_id, probability in enumerate(PROBABILITIES.tolist()):
        # Five standard deviations of a binomial; the seed is fixed, so this cannot flake.
        assert abs(drawn[token_id] - 4000 * probability) < 5 * math.sqrt(4000 * probability * (1 - probability))


def test_temperature_sharpens_and_flattens() -> None:
    assert counts(sampler(temperature=0.2), 500)[0] > 450
    assert counts(sampler(temperature=5.0), 500)[0] < 220


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-300])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    assert counts(sampler(temperature=temperature), 50) == {0: 50}


@pytest.mark.parametrize(("top_p", "nucleus"), [(0.0, {0}), (0.4, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, nucleus: set[int]) -> None:
    assert set(counts(sampler(top_p=top_p), 400)) == nucleus


@given(
    weights=st.lists(st.floats(1e-6, 1), min_size=1, max_size=60),
    top_p=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**32),
)
def test_the_nucleus_is_that_of_its_definition(weights: list[float], top_p: float, seed: int) -> None:
    probabilities = torch.tensor(weights, dtype=torch.float64)
    probabilities /= probabilities.sum()
    token_id = draw(probabilities.log().float(), sampler(top_p=top_p, seed=seed)).token_id
    mass_above = float(probabilities[probabilities > probabilities[token_id] * (1 + 1e-4)].sum())
    assert mass_above < top_p + 1e-4  # else the set was complete without this token


@pytest.mark.parametrize(("top_p", "tokens"), [(0.0, 1), (0.5, 32), (63 / 64, 63)])
def test_top_p_of_equal_tokens_takes_as_many_as_it_needs(top_p: float, tokens: int) -> None:
    drawn = {draw(torch.zeros(64), one).token_id for one in [sampler(top_p=top_p, seed=4)] for _ in range(1500)}
    assert len(drawn) == tokens


@pytest.mark.parametrize(
    ("top_k", "drawn"), [(-1, {0, 1, 2, 3}), (0, {0, 1, 2, 3}), (1, {0}), (2, {0, 1}), (4, {0, 1, 2, 3}), (9, {0, 1, 2, 3})]
)
def test_top_k_keeps_so_many(top_k: int, drawn: set[int]) -> None:
    assert set(counts(sampler(top_k=top_k), 400)) == drawn


def test_top_k_keeps_all_that_are_as_likely_as_its_last() -> None:
    one = sampler(top_k=2, seed=4)
    assert {draw(torch.tensor([1.0, 0.0, 0.0, -1.0]), one).token_id for _ in range(200)} == {0, 1, 2}


@pytest.mark.parametrize(("min_p", "drawn"), [(0.05, {0, 1, 2, 3}), (0.2, {0, 1, 2}), (0.5, {0, 1}), (1.0, {0})])
def test_min_p_keeps_what_is_as_likely_by_comparison(min_p: float, drawn: set[int]) -> None:
    assert set(counts(sampler(min_p=min_p), 400)) == drawn


def test_top_p_is_of_the_mass_that_top_k_and_min_p_leave() -> None:
    assert set(counts(sampler(top_p=0.6), 400)) == {0, 1}
    assert set(counts(sampler(top_p=0.6, top_k=2), 400)) == {0}
    assert set(counts(sampler(top_p=0.6, min_p=0.5), 400)) == {0}


@given(top_k=st.integers(1, 30), top_p=st.floats(0.01, 1), seed=st.integers(0, 2**32))
def test_what_may_be_drawn_is_what_transformers_leaves(top_k: int, top_p: float, seed: int) -> None:
    logits = 3 * torch.randn(1, 30, generator=torch.Generator().manual_seed(seed))
    left = transformers.TopPLogitsWarper(top_p)(None, transformers.TopKLogitsWarper(top_k)(None, logits))
    one = sampler(top_k=top_k, top_p=top_p, seed=seed)
    assert all(left[0, draw(logits[0], one).token_id] > -torch.inf for _ in range(20))


@given(penalty=st.floats(0.1, 10), seen=st.lists(st.integers(0, 29)), seed=st.integers(0, 2**32))
def test_the_penalty_of_repetition_is_that_of_transformers(penalty: float, seen: list[int], seed: int) -> None:
    logits = 3 * torch.randn(1, 30, generator=torch.Generator().manual_seed(seed))
    half = len(seen) // 2
    one = Sampler(Sampling(max_tokens=1, repetition_penalty=penalty), seen[:half])
    for position, token_id in enumerate(seen[half:], half):
        one.see(token_id, position)
    expected = logits
    if seen:
        expected = transformers.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), logits)
    found = logits[0] if one.adjustments is None else one.adjustments.apply(logits[0])
    assert torch.equal(found, expected[0])


@pytest.mark.parametrize("temperature", [0.0, 0.01])
def test_a_penalized_token_gives_way_and_its_logprob_stays(temperature: float) -> None:
    """0.5 to the power of 2 is less than 0.3."""
    one = Sampler(Sampling(max_tokens=1, temperature=temperature, repetition_penalty=2.0, top_logprobs=1))
    assert draw(LOGITS, one).token_id == 0
    one.see(0, 0)
    token = draw(LOGITS, one)
    assert (token.token_id, token.top[0][0]) == (1, 0)
    assert token.logprob == pytest.approx(math.log(0.3), abs=1e-6)


def test_logits_that_differ_in_their_last_bits_give_the_same_tokens() -> None:
    """A vocabulary with a long tail: most borders between its tokens are nearer to one another than the differences."""
    generator = torch.Generator().manual_seed(3)
    one, other = sampler(seed=1), sampler(seed=1)
    for _ in range(20):
        logits = 4 * torch.randn(20_000, generator=generator)
        others = logits + 1e-5 * torch.randn(20_000, generator=generator)
        # The seeds are fixed, so this cannot flake. Inverse transform sampling differs in 0.2 % of such draws.
        assert [draw(logits, one).token_id for _ in range(50)] == [draw(others, other).token_id for _ in range(50)]


@given(seed=st.integers(-(2**70), 2**70), others=st.integers(0, 3))
def test_a_seed_gives_the_same_tokens_in_any_batch(seed: int, others: int) -> None:
    alone, together = sampler(seed=seed), sampler(seed=seed)
    for _ in range(5):
        batch = [*[sampler(seed=None) for _ in range(others)], together]
        tokens = sample(LOGITS.repeat(len(batch), 1), batch, [False] * len(batch), ())
        assert tokens[-1] == draw(LOGITS, alone)


def test_tokens_of_probability_zero_are_never_drawn() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf])
    assert {draw(logits, one).token_id for one in [sampler(seed=2)] for _ in range(200)} == {1, 3}


def test_forbidden_eos_is_neither_drawn_nor_counted() -> None:
    greedy = draw(LOGITS, sampler(temperature=0, top_logprobs=3), forbid_eos=True)
    assert greedy.token_id == 1
    assert greedy.logprob == pytest.approx(math.log(0.3 / 0.5), abs=1e-6)
    assert all(draw(LOGITS, one, forbid_eos=True).token_id != 0 for one in [sampler()] for _ in range(100))


def test_forbidden_eos_concerns_its_own_row_only() -> None:
    tokens = sample(LOGITS.repeat(2, 1), [sampler(temperature=0)] * 2, [True, False], {0, 1})
    assert [token.token_id for token in tokens] == [2, 0]


def test_logprobs_are_the_models_whatever_the_temperature() -> None:
    token = draw(LOGITS, sampler(temperature=0.5, top_logprobs=2))
    assert token.logprob == pytest.approx(float(LOGITS[token.token_id]), abs=1e-6)
    assert [token_id for token_id, _ in token.top] == [0, 1]
    assert [logprob for _, logprob in token.top] == pytest.approx(LOGITS[:2].tolist(), abs=1e-6)


def test_zero_top_logprobs_gives_the_chosen_tokens_only() -> None:
    token = draw(LOGITS, sampler(temperature=0, top_logprobs=0))
    assert token.top == ()
    assert token.logprob == pytest.approx(math.log(0.5), abs=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused_before_anything_moves(bad: float) -> None:
    one = sampler(seed=5)
    before = one.random.getstate()
    with pytest.raises(BadLogitsError) as failed:
        sample(torch.stack([LOGITS, torch.tensor([0.0, bad, 0.0, 0.0])]), [one, sampler()], [False, False], ())
    assert failed.value.rows == (1,)
    assert one.random.getstate() == before


def test_a_row_that_raises_moves_no_other_rows_seed() -> None:
    """The rows are sampled again without it, and get what they would have got."""
    first, last = sampler(seed=5), sampler(seed=6)
    broken = sampler(seed=7, top_logprobs=1000)  # more than there are tokens
    with pytest.raises(RuntimeError):
        sample(LOGITS.repeat(3, 1), [first, last, broken], [False] * 3, ())
    with pytest.raises(RuntimeError):
        sample(LOGITS.repeat(3, 1), [first, broken, last], [False] * 3, ())
    for again, seed in ((first, 5), (last, 6)):
        fresh = sampler(seed=seed)
        assert [draw(LOGITS, again) for _ in range(20)] == [draw(LOGITS, fresh) for _ in range(20)]


def test_bfloat16_logits_work_too() -> None:
    token = draw(LOGITS.bfloat16(), sampler(top_p=0.5, top_logprobs=1))
    assert token.token_id == 0
    assert token.logprob == pytest.approx(math.log(0.5), abs=0.01)
