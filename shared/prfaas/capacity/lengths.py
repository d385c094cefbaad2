"""Distributions of uncached input tokens, L, as Equations 3 to 7 need them."""

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Protocol

import numpy as np

_NORMAL = NormalDist()
_MAX_MU, _MAX_SIGMA = 100.0, 20.0
"""Parameters of ln L beyond which exp(mu + sigma^2 / 2) leaves the range of a float."""


class Lengths(Protocol):
    """A distribution of uncached lengths in tokens."""

    @property
    def mean_tokens(self) -> float: ...

    @property
    def low_tokens(self) -> float: ...

    @property
    def high_tokens(self) -> float: ...

    def share_above(self, tokens: float) -> float:
        """p = P(L > tokens)."""
        ...

    def mean_above(self, tokens: float) -> float:
        """l_long = E[L given L > tokens]; `high_tokens` when nothing is longer."""
        ...

    def mean_below(self, tokens: float) -> float:
        """l_short = E[L given L <= tokens]; `low_tokens` when nothing is shorter."""
        ...

    def quantile(self, share: float) -> float:
        """Returns the length that `share` of all requests do not exceed."""
        ...


class TruncatedLogNormal:
    """Log-normal cut to [low_tokens, high_tokens] (paper, section 4.1), in closed form."""

    def __init__(self, *, mu: float, sigma: float, low_tokens: float, high_tokens: float) -> None:
        """`mu` and `sigma` are those of ln L before the cut. Raises ValueError."""
        if not (abs(mu) <= _MAX_MU and 0 < sigma <= _MAX_SIGMA and 0 < low_tokens < high_tokens < math.inf):
            raise ValueError(
                f"a truncated log-normal needs mu within {_MAX_MU:g} of 0, sigma > 0 and at most {_MAX_SIGMA:g}, and "
                f"0 < low < high, but mu is {mu:g}, sigma {sigma:g}, low {low_tokens:g}, high {high_tokens:g}."
            )
        self.mu, self.sigma, self.low_tokens, self.high_tokens = mu, sigma, low_tokens, high_tokens
        self._low_cdf = self._untruncated_cdf(low_tokens)
        self._mass = self._untruncated_cdf(high_tokens) - self._low_cdf
        if self._mass < 1e-9:
            raise ValueError(f"mu {mu} and sigma {sigma} leave nothing between {low_tokens} and {high_tokens} tokens.")

    @property
    def mean_tokens(self) -> float:
        return self._mean_between(self.low_tokens, self.high_tokens)

    def share_above(self, tokens: float) -> float:
        clipped = min(max(tokens, self.low_tokens), self.high_tokens)
        return min(max(1 - (self._untruncated_cdf(clipped) - self._low_cdf) / self._mass, 0.0), 1.0)

    def mean_above(self, tokens: float) -> float:
        return (
            self._mean_between(max(tokens, self.low_tokens), self.high_tokens) if tokens < self.high_tokens else self.high_tokens
        )

    def mean_below(self, tokens: float) -> float:
        return self._mean_between(self.low_tokens, min(tokens, self.high_tokens)) if tokens > self.low_tokens else self.low_tokens

    def quantile(self, share: float) -> float:
        cdf = self._low_cdf + min(max(share, 0.0), 1.0) * self._mass
        if not 0 < cdf < 1:
            return self.low_tokens if cdf <= 0 else self.high_tokens
        tokens = math.exp(self.mu + self.sigma * _NORMAL.inv_cdf(cdf))
        return min(max(tokens, self.low_tokens), self.high_tokens)

    def _z(self, tokens: float) -> float:
        return (math.log(tokens) - self.mu) / self.sigma

    def _untruncated_cdf(self, tokens: float) -> float:
        return _NORMAL.cdf(self._z(tokens))

    def _mean_between(self, low: float, high: float) -> float:
        """E[L given low < L <= high] = exp(mu + sigma^2 / 2) (Phi(b - sigma) - Phi(a - sigma)) / (Phi(b) - Phi(a))."""
        a, b = self._z(low), self._z(high)
        mass = _NORMAL.cdf(b) - _NORMAL.cdf(a)
        if mass < 1e-12:  # the quotient of two differences this small is noise
            return (low + high) / 2
        partial = _NORMAL.cdf(b - self.sigma) - _NORMAL.cdf(a - self.sigma)
        return min(max(math.exp(self.mu + self.sigma**2 / 2) * partial / mass, low), high)


class EmpiricalLengths:
    """Lengths that were seen, each as likely as any other."""

    def __init__(self, lengths_tokens: Iterable[float]) -> None:
        """Raises ValueError when there are none, or one is negative."""
        self._sorted = np.sort(np.fromiter(lengths_tokens, dtype=np.float64))
        if not len(self._sorted) or self._sorted[0] < 0:
            raise ValueError("an empirical distribution needs at least one length, and none below 0 tokens.")
        self._sums = np.concatenate(([0.0], np.cumsum(self._sorted)))

    @property
    def count(self) -> int:
        return len(self._sorted)

    @property
    def mean_tokens(self) -> float:
        return float(self._sums[-1] / self.count)

    @property
    def low_tokens(self) -> float:
        return float(self._sorted[0])

    @property
    def high_tokens(self) -> float:
        return float(self._sorted[-1])

    def share_above(self, tokens: float) -> float:
        return 1 - self._count_to(tokens) / self.count

    def mean_above(self, tokens: float) -> float:
        below = self._count_to(tokens)
        above = self.count - below
        return float((self._sums[-1] - self._sums[below]) / above) if above else self.high_tokens

    def mean_below(self, tokens: float) -> float:
        below = self._count_to(tokens)
        return float(self._sums[below] / below) if below else self.low_tokens

    def quantile(self, share: float) -> float:
        index = math.ceil(min(max(share, 0.0), 1.0) * self.count) - 1
        return float(self._sorted[max(index, 0)])

    def _count_to(self, tokens: float) -> int:
        return int(np.searchsorted(self._sorted, tokens, side="right"))


def quantile_midpoints(lengths: Lengths, bins: int) -> Sequence[float]:
    """Returns `bins` lengths that stand for an equal share of the requests each."""
    return [lengths.quantile((index + 0.5) / bins) for index in range(bins)]
