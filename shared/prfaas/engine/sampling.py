"""Sampling: logits in, tokens out. A request's tokens depend on its own logits and seed, never on the other rows of the batch."""

import math
import random
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import torch

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.logit_adjustments import LogitAdjustments
from prfaas.engine.protocol import BadLogitsError, RowsFailedError, SampledToken


class Sampler:
    """Settings and state of one request. Without a seed the random state comes from the system."""

    def __init__(self, sampling: Sampling, prompt: Collection[int] = ()) -> None:
        self.temperature = sampling.temperature
        self.top_p = sampling.top_p
        self.top_k = sampling.top_k
        self.min_p = sampling.min_p
        self.top_logprobs = sampling.top_logprobs
        self.random = random.Random(sampling.seed)
        self._returned: list[float] = []
        self.adjustments = LogitAdjustments.of(sampling, prompt)
        """None for a request that changes no logits: its row costs no more for those of others."""

    def see(self, token_id: int, position: int) -> None:
        """Takes the token that was fed at a position of the request's text, maybe once more."""
        if self.adjustments is not None:
            self.adjustments.see(token_id, position)

    def uniform(self) -> float:
        """Draws from [0, 1)."""
        return self._returned.pop() if self._returned else self.random.random()

    def give_back(self, drawn: float) -> None:
        """Undoes the last draw, which gave `drawn`."""
        self._returned.append(drawn)


def sample(
    logits: torch.Tensor,
    samplers: Sequence[Sampler],
    forbid_eos: Sequence[bool],
    eos_token_ids: Collection[int],
    masks: Mapping[int, torch.Tensor] = MappingProxyType({}),
) -> list[SampledToken]:
    """Returns one token per row of [rows, vocabulary] logits, which it may change.

    `masks`: [vocabulary] booleans of the tokens that may come, by row; in a row without one all may. Log-probabilities are the
    model's, before bias, penalties, mask and temperature. Raises RowsFailedError. Whatever it raises, no random state
    has moved then."""
    forbidden = [row for row, forbid in enumerate(forbid_eos) if forbid]
    if forbidden and eos_token_ids:
        logits[torch.tensor(forbidden)[:, None], torch.tensor(sorted(eos_token_ids))] = -torch.inf
    # max, not argmax: four times faster on a CPU in bf16. NaN comes out as the maximum.
    best, best_ids = logits.max(dim=-1)
    if bad := [row for row, value in enumerate(best.tolist()) if not math.isfinite(value)]:
        raise BadLogitsError(bad)
    tokens = []
    drawn: list[tuple[Sampler, float]] = []
    try:
        for row, (sampler, best_id) in enumerate(zip(samplers, best_ids.tolist(), strict=True)):
            token_id = best_id
            if sampler.temperature > 0:
                drawn.append((sampler, sampler.uniform()))
                token_id = _draw(_scored(logits[row], sampler, row, masks.get(row)), sampler, drawn[-1][1])
            elif sampler.adjustments is not None or row in masks:
                token_id = int(_scored(logits[row], sampler, row, masks.get(row)).argmax())
            if sampler.top_logprobs is None:
                tokens.append(SampledToken(token_id=token_id))
            else:
                tokens.append(_with_logprobs(logits[row].float(), token_id, sampler.top_logprobs))
    except Exception:
        # One row's error must not move the others' seeds: their rows are sampled again.
        for sampler, uniform in reversed(drawn):
            sampler.give_back(uniform)
        raise
    return tokens


def _scored(logits: torch.Tensor, sampler: Sampler, row: int, mask: torch.Tensor | None) -> torch.Tensor:
    """Returns a row's logits in float32, changed as its request asks, then without the tokens that may not come.

    Raises RowsFailedError when no token is left: among -inf alone one would be found all the same."""
    scores = logits.float()
    if sampler.adjustments is not None:
        scores = sampler.adjustments.apply(scores)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    if (sampler.adjustments is not None or mask is not None) and scores.max() == -torch.inf:
        message = "no token is left to draw: `bad_words`, `min_tokens` and the form of the answer leave none"
        raise RowsFailedError([row], message)
    return scores


def _draw(logits: torch.Tensor, sampler: Sampler, uniform: float) -> int:
    """Gumbel-max sampling: the largest of logit / temperature + noise. A token's noise depends on the draw and its id alone.

    Another batch or processor moves logits by some 1e-5. Then two tokens change places only if their sums are as near to one
    another. Inverse transform sampling would add the differences up along the vocabulary: the tens of thousands of
    borders between its unlikely tokens are nearer to one another than that."""
    # Subtracting the maximum first: a temperature near 0 then gives -inf and never inf - inf. The smallest float32
    # stands in for temperatures that would round to 0, and 0 / 0 is NaN.
    temperature = max(sampler.temperature, torch.finfo(torch.float32).tiny)
    scores = (logits - logits.max()) / temperature
    noise = _gumbel_noise(len(scores), uniform).to(scores.device)
    ids = _likely(scores, sampler)
    if ids is None:
        return int((scores + noise).argmax())
    return int(ids[(scores[ids] + noise[ids]).argmax()])


def _likely(scores: torch.Tensor, sampler: Sampler) -> torch.Tensor | None:
    """Returns the ids of the tokens that may be drawn; None: all. As in vLLM, top_p is of the mass that min_p and top_k leave.

    Tokens as likely as the last one of top_k may be drawn too: which of equals come first depends on the processor."""
    least = math.log(sampler.min_p) if sampler.min_p > 0 else -math.inf
    if 0 < sampler.top_k < len(scores):
        least = max(least, float(scores.topk(sampler.top_k).values[-1]))
    ids = None if least == -math.inf else (scores >= least).nonzero().squeeze(1)
    if sampler.top_p >= 1:
        return ids
    nucleus = _nucleus((scores if ids is None else scores[ids]).softmax(-1), sampler.top_p)
    return nucleus if ids is None else ids[nucleus]


def _gumbel_noise(tokens: int, uniform: float) -> torch.Tensor:
    """Returns a number per token from the standard Gumbel distribution, to the 24 bits of a float32, and never +inf.

    Always from a CPU's generator: an answer may go on at a worker with another device."""
    generator = torch.Generator().manual_seed(int(uniform * 2**53))
    return -(-torch.rand(tokens, generator=generator).log()).log()


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Returns the ids of the smallest set of tokens whose mass reaches `top_p`; at least one."""
    # Sorting a vocabulary of 262,144 takes 15 ms. All tokens below (1 - top_p) / vocabulary together hold less than
    # 1 - top_p, so the rest contains the nucleus, and is short.
    cutoff = min((1 - top_p) / len(probabilities), float(probabilities.max()))
    candidates = (probabilities >= cutoff).nonzero().squeeze(1)
    sorted_probabilities, order = probabilities[candidates].sort(descending=True, stable=True)
    cumulative = sorted_probabilities.double().cumsum(0)
    size = int(torch.searchsorted(cumulative, top_p).clamp(max=len(cumulative) - 1)) + 1
    return candidates[order[:size]]


def _with_logprobs(logits: torch.Tensor, token_id: int, top_count: int) -> SampledToken:
    log_normalizer = logits.logsumexp(0)
    values, ids = (logits - log_normalizer).topk(top_count)
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return SampledToken(token_id=token_id, logprob=float(logits[token_id] - log_normalizer), top=top)
