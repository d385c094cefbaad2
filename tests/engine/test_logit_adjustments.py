"""Bias, penalties and tokens that may not come, compared with their definitions."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.logit_adjustments import LogitAdjustments
from prfaas.engine.protocol import BadLogitsError, RowsFailedError, SampledToken
from prfaas.engine.sampling import Sampler, sample

TOKENS = 30
ids = st.lists(st.integers(0, TOKENS - 1), max_size=12)


def logits_of(seed: int) -> torch.Tensor:
    return 3 * torch.randn(TOKENS, generator=torch.Generator().manual_seed(seed))


def adjustments(prompt: Sequence[int] = (), answer: Sequence[int] = (), **fields: Any) -> LogitAdjustments:
    made = LogitAdjustments.of(Sampling(max_tokens=99, **fields), list(prompt))
    assert made is not None
    for position, token_id in enumerate([*prompt, *answer]):
        made.see(token_id, position)
    return made


@pytest.mark.parametrize("neutral", [
    {}, {"presence_penalty": 0.0}, {"temperature": 0.5, "seed": 1}, {"stop_token_ids": (3,)}, {"min_tokens": 3},
])  # fmt: skip
def test_a_request_that_changes_nothing_has_no_adjustments(neutral: dict[str, Any]) -> None:
    assert LogitAdjustments.of(Sampling(max_tokens=9, **neutral), [1, 2]) is None


@given(prompt=ids, answer=ids, presence=st.floats(-2, 2), frequency=st.floats(-2, 2), seed=st.integers(0, 2**32))
def test_penalties_are_openais_and_of_the_answer_alone(
    prompt: list[int], answer: list[int], presence: float, frequency: float, seed: int
) -> None:
    """mu[j] - c[j] * alpha_frequency - (c[j] > 0) * alpha_presence."""
    logits, times = logits_of(seed), Counter(answer)
    expected = [value - times[j] * frequency - (times[j] > 0) * presence for j, value in enumerate(logits.tolist())]
    made = LogitAdjustments(Sampling(max_tokens=99, presence_penalty=presence, frequency_penalty=frequency), prompt)
    for position, token_id in enumerate([*prompt, *answer]):
        made.see(token_id, position)
    assert made.apply(logits).tolist() == pytest.approx(expected, abs=1e-5)


@given(bias=st.dictionaries(st.integers(0, TOKENS - 1), st.floats(-100, 100), min_size=1), seed=st.integers(0, 2**32))
def test_a_bias_is_added(bias: dict[int, float], seed: int) -> None:
    logits = logits_of(seed)
    kept = logits.clone()
    found = adjustments(logit_bias=tuple(bias.items())).apply(logits)
    assert found.tolist() == pytest.approx([value + bias.get(j, 0) for j, value in enumerate(kept.tolist())], abs=1e-4)
    assert torch.equal(logits, kept), "the model's own are still needed for log-probabilities"


@given(
    words=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=6),
    answer=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
)
def test_bad_words_are_those_of_transformers(words: list[list[int]], answer: list[int], seed: int) -> None:
    logits = logits_of(seed)
    expected = transformers.NoBadWordsLogitsProcessor(words)(torch.tensor([answer]), logits[None])[0]
    found = adjustments(answer=answer, bad_words=tuple(map(tuple, words))).apply(logits)
    assert torch.equal(found, expected)


def test_a_bad_word_may_begin_in_the_prompt() -> None:
    """Only the answer is looked at, as vLLM has it."""
    word = ((1, 2),)
    assert adjustments(prompt=[1], bad_words=word).apply(logits_of(0))[2] > -torch.inf
    assert adjustments(prompt=[0], answer=[1], bad_words=word).apply(logits_of(0))[2] == -torch.inf


def test_stop_tokens_are_not_drawn_before_min_tokens() -> None:
    fields: dict[str, Any] = {"stop_token_ids": (4, 5), "min_tokens": 2}
    for answer, banned in (([], True), ([1], True), ([1, 1], False)):
        found = adjustments(prompt=[9], answer=answer, **fields).apply(logits_of(0))
        assert [float(found[token_id]) == -torch.inf for token_id in (4, 5, 6)] == [banned, banned, False]


def test_where_no_token_is_left_the_row_fails_and_no_other() -> None:
    one = Sampler(Sampling(max_tokens=9, temperature=0.5, seed=1, bad_words=tuple((each,) for each in range(TOKENS))))
    other = Sampler(Sampling(max_tokens=9, seed=2))
    with pytest.raises(RowsFailedError, match="no token is left") as raised:
        sample(torch.stack([logits_of(0), logits_of(1)]), [other, one], [False, False], ())
    assert not isinstance(raised.value, BadLogitsError) and raised.value.rows == (1,)
    assert one.uniform() == Sampler(Sampling(max_tokens=9, seed=1)).uniform(), "its draw was given back"


def test_a_step_that_is_done_again_counts_its_token_once() -> None:
    once, twice = (adjustments(prompt=[1, 2], answer=[3], frequency_penalty=1.0) for _ in range(2))
    twice.see(3, 2)
    assert torch.equal(once.apply(logits_of(0)), twice.apply(logits_of(0)))


def test_a_token_that_was_never_fed_is_noticed() -> None:
    with pytest.raises(AssertionError, match="token 3 of the request was never fed"):
        adjustments(prompt=[1, 2], answer=[3], frequency_penalty=1.0).see(5, 4)


def answer_of(sampling: Sampling, prompt: list[int], tokens: int, sent: Sequence[int] = ()) -> list[SampledToken]:
    """Returns what a sampler draws where the logits depend on the last token; `sent` is what it is fed in place of the first."""
    one = Sampler(sampling, prompt)
    last, answer = prompt[-1], []
    for step in range(tokens):
        one.see(last, len(prompt) - 1 + step)
        answer += sample(logits_of(last)[None], [one], [False], ())
        last = sent[step] if step < len(sent) else answer[-1].token_id
    return answer


@given(
    sent=st.integers(1, 19),
    fields=st.fixed_dictionaries({}, optional={
        "presence_penalty": st.floats(-2, 2), "frequency_penalty": st.floats(-2, 2), "repetition_penalty": st.floats(0.5, 2),
        "logit_bias": st.just(((3, 4.0), (7, -100.0))), "bad_words": st.just(((1,), (2, 3), (4, 4))),
        "stop_token_ids": st.just((8, 9)), "min_tokens": st.integers(0, 20),
    }),
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_a_worker_that_goes_on_with_an_answer_draws_the_same(
    sent: int, fields: dict[str, Any], temperature: float, seed: int
) -> None:
    """It is fed what was sent, step by step, and has the same counts and random state then."""
    sampling = Sampling(max_tokens=20, temperature=temperature, seed=seed, **fields)
    whole = answer_of(sampling, [5, 1], 20)
    moved = answer_of(sampling, [5, 1], 20, [token.token_id for token in whole[:sent]])
    assert moved[sent:] == whole[sent:]
