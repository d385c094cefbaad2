"""The best threshold by the mean of T(L) over the lengths that were seen, E[T(L)], where the paper's equations take T(E[L]).

A prefill curve bends upward, so requests bring more work than one of their mean length. For a sample of lengths all thresholds
are tried at once: sums from the shortest length up give the local work, sums from the longest down the remote work.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import inf
from typing import NamedTuple, TypeVar

from prfaas.capacity.threshold import PrefillStage

SAMPLE = 256
"""Quantiles that a sample is cut down to; more would cost time and say no more."""


class Limits(NamedTuple):
    """Rates (req/s) that the prefill stages carry, by the number of the shortest lengths of the sample that stay."""

    lengths: list[float]
    """The sample in rising order."""
    req_s: list[float]
    """One value per number of lengths that stay, from none to all."""

    def at(self, threshold_tokens: float) -> float:
        stay = sum(length <= threshold_tokens for length in self.lengths)
        return self.req_s[stay]

    def best(self) -> tuple[int, float]:
        """Returns (threshold in whole tokens, rate): the longest length that stays at the best cut, or one below the shortest.
        No cut parts equal lengths."""
        last = len(self.lengths)
        cuts = [stay for stay in range(last + 1) if stay in (0, last) or self.lengths[stay - 1] < self.lengths[stay]]
        stay = max(cuts, key=self.req_s.__getitem__)
        return int(self.lengths[stay - 1]) if stay else int(self.lengths[0]) - 1, self.req_s[stay]


Ordered = TypeVar("Ordered", float, tuple[float, float])


def quantiles(values: Sequence[Ordered], count: int = SAMPLE) -> list[Ordered]:
    """Returns the values in rising order; of many, the middle ones of `count` equal parts."""
    ordered = sorted(values)
    if len(ordered) <= count:
        return ordered
    return [ordered[int((part + 0.5) * len(ordered) / count)] for part in range(count)]


def mean_work_limits(
    lengths: Sequence[float],
    local: PrefillStage,
    remotes: Sequence[PrefillStage],
    remote_lengths: Sequence[float] | None = None,
) -> Limits:
    """Eq 6 without decode, with E[T(L)], for every cut of the sample. Remote sites add up, each at its own pace (Eq 3).

    `remote_lengths`: lengths of the same requests at a remote site, whose caches may hold more or less of them; None: as here."""
    pairs = quantiles(list(zip(lengths, lengths if remote_lengths is None else remote_lengths, strict=True)))
    ordered, longest_first = [here for here, _ in pairs], [there for _, there in reversed(pairs)]
    count = len(ordered)
    stays_s = [0.0, *accumulate(local.prefill_s(length) for length in ordered)]
    carried = [_rate(local.workers, work_s / count) for work_s in stays_s]
    remote = [0.0] * (count + 1)
    for stage in remotes:
        leaves_s = [0.0, *accumulate(stage.prefill_s(length) for length in longest_first)]
        leaves_bytes = [0.0, *accumulate(stage.kv_bytes(length) for length in longest_first)]
        for stay in range(count + 1):
            leave = count - stay
            by_work = _rate(stage.workers, leaves_s[leave] / count)
            by_link = _rate(stage.egress_bytes_per_s, leaves_bytes[leave] / count)
            remote[stay] += min(by_work, by_link)
    return Limits(ordered, [min(here, there) for here, there in zip(carried, remote, strict=True)])


def _rate(capacity: float, mean_cost: float) -> float:
    return capacity / mean_cost if mean_cost > 0 else inf
