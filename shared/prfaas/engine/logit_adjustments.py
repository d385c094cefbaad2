"""Changes of one row's logits that a request asks for: bias, penalties, tokens that may not come. Those without any have none."""

from collections.abc import Collection, Sequence

import torch

from prfaas.contracts.to_decode import Sampling


class LogitAdjustments:
    """Settings of one request, and the tokens of its prompt and its answer so far that they look at.

    All of its state follows from the prompt and the tokens that were fed: another worker that computes an answer again has the
    same."""

    def __init__(self, sampling: Sampling, prompt: Collection[int] = ()) -> None:
        self._prompt_tokens = len(prompt)
        self._repetition_penalty = sampling.repetition_penalty
        self._presence_penalty = sampling.presence_penalty
        self._frequency_penalty = sampling.frequency_penalty
        self._bias_ids = [token_id for token_id, _ in sampling.logit_bias]
        self._bias = [bias for _, bias in sampling.logit_bias]
        self._bad_words = sampling.bad_words
        self._stop_token_ids = sampling.stop_token_ids
        self._min_tokens = sampling.min_tokens
        self._seen = set(prompt) if self._repetition_penalty != 1 else set()
        self._answer: list[int] = []
        self._counts: dict[int, int] = {}
        """Times of each token in the answer."""

    @classmethod
    def of(cls, sampling: Sampling, prompt: Collection[int] = ()) -> "LogitAdjustments | None":
        """Returns None for a request that asks for no change."""
        asked = (
            sampling.repetition_penalty != 1
            or sampling.presence_penalty != 0
            or sampling.frequency_penalty != 0
            or sampling.logit_bias
            or sampling.bad_words
            or (sampling.stop_token_ids and sampling.min_tokens)
        )
        return cls(sampling, prompt) if asked else None

    def see(self, token_id: int, position: int) -> None:
        """Takes the token at a position of prompt and answer, in their order.

        One that was taken already changes nothing: a step that failed is done again."""
        expected = self._prompt_tokens + len(self._answer)
        assert position <= expected, f"token {expected} of the request was never fed, and token {position} came"
        if position < expected:
            return
        self._answer.append(token_id)
        self._counts[token_id] = self._counts.get(token_id, 0) + 1
        if self._repetition_penalty != 1:
            self._seen.add(token_id)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns a changed copy of the row's float32 logits, in vLLM's order: bias, repetition, frequency, presence; then -inf
        for what may not come, which may be all."""
        logits = logits.clone()
        if self._bias_ids:
            logits.index_add_(0, _ids(self._bias_ids, logits), _floats(self._bias, logits))
        if self._seen:
            seen = _ids(list(self._seen), logits)
            values = logits[seen]
            logits[seen] = torch.where(values > 0, values / self._repetition_penalty, values * self._repetition_penalty)
        if self._counts and (self._presence_penalty or self._frequency_penalty):
            ids = _ids(list(self._counts), logits)
            times = _floats(list(self._counts.values()), logits)
            logits[ids] -= self._frequency_penalty * times + self._presence_penalty
        if banned := self._banned():
            logits[_ids(banned, logits)] = -torch.inf
        return logits

    def _banned(self) -> list[int]:
        banned = [word[-1] for word in self._bad_words if self._ends_with(word[:-1])]
        if len(self._answer) < self._min_tokens:
            banned += self._stop_token_ids
        return banned

    def _ends_with(self, token_ids: Sequence[int]) -> bool:
        return not token_ids or tuple(self._answer[-len(token_ids) :]) == tuple(token_ids)


def _ids(token_ids: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
    return torch.tensor(token_ids, dtype=torch.int64, device=logits.device)


def _floats(values: Sequence[float], logits: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=logits.dtype, device=logits.device)
