"""Masks of rows: what is asked of them, and whom an error concerns."""

from collections.abc import Callable

import pytest
import torch

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.protocol import DecodeRow, RowsFailedError
from prfaas.engine.row_masks import allowed_ids, masks_of, token_mask
from prfaas.engine.sampling import Sampler, sample

LOGITS = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]] * 3)
ONLY_TWO_AND_FOUR = bytes([0b10100, 0, 0, 0])


def row(allowed: Callable[[], bytes] | None) -> DecodeRow:
    return DecodeRow(sequence=None, token_id=0, sampler=None, allowed=allowed)


def broken() -> bytes:
    raise RuntimeError("the grammar broke")


def sampler(temperature: float, seed: int = 0) -> Sampler:
    return Sampler(Sampling(max_tokens=1, temperature=temperature, seed=seed, top_logprobs=1))


def test_only_rows_that_have_a_mask_are_asked() -> None:
    assert masks_of([row(None), row(lambda: ONLY_TWO_AND_FOUR), row(None)]) == {1: ONLY_TWO_AND_FOUR}


def test_an_error_of_a_mask_is_its_rows_alone() -> None:
    with pytest.raises(RowsFailedError, match="the grammar broke") as failed:
        masks_of([row(None), row(broken)])
    assert failed.value.rows == (1,)


def test_a_mask_has_one_bit_per_token_from_the_lowest_on() -> None:
    assert allowed_ids(ONLY_TWO_AND_FOUR, 5) == [2, 4]
    assert token_mask(ONLY_TWO_AND_FOUR, 5).tolist() == [False, False, True, False, True]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_a_masked_row_gets_a_token_that_may_come_and_the_others_what_they_get_without_it(temperature: float) -> None:
    masks = {1: token_mask(ONLY_TWO_AND_FOUR, 5)}
    for seed in range(30):
        without = sample(LOGITS.clone(), [sampler(temperature, seed) for _ in range(3)], [False] * 3, {0})
        masked = sample(LOGITS.clone(), [sampler(temperature, seed) for _ in range(3)], [False] * 3, {0}, masks)
        assert masked[1].token_id in (2, 4)
        assert [masked[0], masked[2]] == [without[0], without[2]]


def test_log_probabilities_stay_the_models() -> None:
    (token,) = sample(LOGITS[:1].clone(), [sampler(0.0)], [False], {0}, {0: token_mask(ONLY_TWO_AND_FOUR, 5)})
    assert token.token_id == 2
    assert token.top[0][0] == 0
    assert token.logprob == pytest.approx(float(LOGITS[0].log_softmax(-1)[2]))


def test_a_row_without_a_token_that_may_come_fails_and_no_seed_moves() -> None:
    one, other = sampler(1.0), sampler(1.0)
    logits = LOGITS[:2].clone()
    logits[1, 2] = logits[1, 4] = -torch.inf
    with pytest.raises(RowsFailedError, match="no token is left") as failed:
        sample(logits, [one, other], [False] * 2, {0}, {1: token_mask(ONLY_TWO_AND_FOUR, 5)})
    assert failed.value.rows == (1,)
    assert one.uniform() == sampler(1.0).uniform()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("only", [0, 3])
def test_a_row_whose_only_token_is_banned_fails_and_sends_none(only: int, temperature: float) -> None:
    mask = torch.zeros(5, dtype=torch.bool)
    mask[only] = True
    banned = Sampler(Sampling(max_tokens=1, temperature=temperature, seed=0, bad_words=((only,),)))
    with pytest.raises(RowsFailedError, match="no token is left"):
        sample(LOGITS[:1].clone(), [banned], [False], {4}, {0: mask})
