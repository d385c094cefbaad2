"""Synthetic traffic: lengths from a distribution, arrivals from a Gamma process (CV 1 is Poisson, CV 0 a clock)."""

import math
import random
from collections.abc import Callable, Iterator

import msgspec

from prfaas.capacity.lengths import TruncatedLogNormal
from prfaas.replay.shaping import ShapeError
from prfaas.traces import TraceRequest

LOW_TOKENS, HIGH_TOKENS = 2, 131_072
_KEYS = {"lognormal": ("median", "sigma", "low", "high"), "fixed": ("tokens",)}
POISSON_CV = 1.0
MIN_CV, MAX_CV = 1e-3, 100.0
"""Smallest that differs from a clock, and the largest: services' clients have up to 10."""
MAX_REQUESTS = 10_000_000
"""Most that are made: a run of more would be read for an hour before its first request."""


class Synthetic(msgspec.Struct, frozen=True, kw_only=True):
    lengths: str
    """`lognormal:median=8192,sigma=1[,low=2][,high=131072]` or `fixed:tokens=8192`: uncached prompt tokens."""
    output_tokens: int
    rate_req_s: float
    duration_s: float
    arrivals_cv: float = POISSON_CV
    """Coefficient of variation of the time between two arrivals."""
    shared_prefix_tokens: int = 0
    """Tokens before them that all prompts share."""
    seed: int = 1

    def requests(self) -> Iterator[TraceRequest]:
        """Yields the same requests each time. Raises ShapeError for lengths that are not understood."""
        draw = _drawer(self.lengths)
        expected = self.rate_req_s * self.duration_s
        if expected > MAX_REQUESTS:
            raise ShapeError(f"{self.rate_req_s:g} requests a second for {self.duration_s:g} s are more than {MAX_REQUESTS:,}.")
        gaps, sizes = random.Random(f"arrivals {self.seed}"), random.Random(f"lengths {self.seed}")
        shared = self.shared_prefix_tokens
        blocks = (0,) if shared else ()
        at_s = self._gap_s(gaps)
        while at_s < self.duration_s:
            yield TraceRequest(at_s, shared + draw(sizes), self.output_tokens, blocks, shared)
            at_s += self._gap_s(gaps)

    def _gap_s(self, source: random.Random) -> float:
        mean_s, cv = 1 / self.rate_req_s, self.arrivals_cv
        return source.gammavariate(1 / cv**2, mean_s * cv**2) if cv >= MIN_CV else mean_s


def _drawer(spec: str) -> Callable[[random.Random], int]:
    kind, _, rest = spec.partition(":")
    if kind not in _KEYS:
        raise ShapeError(f"there are no lengths {kind!r}; there are {', '.join(_KEYS)}.")
    values = _values(kind, rest)
    if kind == "fixed":
        tokens = round(_needed(values, kind, "tokens", at_least=1.0))
        return lambda source: tokens
    low, high = values.get("low", LOW_TOKENS), values.get("high", HIGH_TOKENS)
    if not 1 <= low < high:
        raise ShapeError(f"lognormal needs 1 <= low < high, and got {low:g} and {high:g}.")
    median, sigma = _needed(values, kind, "median", at_least=1.0), _needed(values, kind, "sigma", at_least=1e-6)
    try:
        lengths = TruncatedLogNormal(mu=math.log(median), sigma=sigma, low_tokens=low, high_tokens=high)
    except ValueError as error:
        raise ShapeError(f"lognormal: {error}") from error
    return lambda source: max(1, round(lengths.quantile(source.random())))


def _values(kind: str, text: str) -> dict[str, float]:
    found = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key not in _KEYS[kind]:
            raise ShapeError(f"{kind} has no {key!r}; it has {', '.join(_KEYS[kind])}.")
        try:
            found[key] = float(value)
        except ValueError:
            raise ShapeError(f"{kind}: {key} is {value!r}; expected a number.") from None
    return found


def _needed(values: dict[str, float], kind: str, key: str, *, at_least: float) -> float:
    if key not in values:
        raise ShapeError(f"{kind} needs {key}, as in {kind}:{','.join(f'{each}=...' for each in _KEYS[kind][:2])}.")
    if not at_least <= values[key] < 1e9:
        raise ShapeError(f"{kind}: {key} is {values[key]:g}; expected a number from {at_least:g} to 1e9.")
    return values[key]
