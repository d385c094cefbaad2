"""Profile of one instance of a model on one kind of machine: T_prefill(l), S_kv(l), decode step time and batch limit.

A profile is a list of measured points. Between two points values are read off the straight line through them, outside
along the line of the outermost two: a prefill curve that bends upward is underestimated beyond its last point. A measured curve
may have dents; `check_possible` refuses them for a plan.
"""

import bisect
from collections.abc import Callable
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from prfaas.capacity.equations import kv_bytes_per_s
from prfaas.capacity.small_file import read_small

BITS_PER_BYTE = 8
MAX_POINTS = 4096
LIMITS = {
    "tokens": (1, 1e8),
    "prefill_s": (1e-6, 1e6),
    "kv_bytes": (1, 1e15),
    "batch": (1, 1e6),
    "step_s": (1e-6, 1e4),
}
"""Smallest and largest values that are believed, by field."""
Point = TypeVar("Point")
_tokens = attrgetter("tokens")
_batch = attrgetter("batch")


def gbit_s(bytes_per_s: float) -> float:
    return bytes_per_s * BITS_PER_BYTE / 1e9


class ProfileError(ValueError):
    """Raised for a profile that cannot be used; the message names it and says why."""


class PrefillPoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tokens: int
    """Number of uncached tokens that the instance prefills."""
    prefill_s: float
    """T_prefill(tokens): latency of the whole prefill on an otherwise idle instance."""
    kv_bytes: float
    """S_kv(tokens): cache of a request of this length."""


class DecodePoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    batch: int
    step_s: float
    """Time of one decode step with `batch` requests in it."""


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Points in rising order of tokens and batch. Raises ProfileError for points that no machine can have.

    `decode` may be empty for a machine that only prefills."""

    name: str
    source: str
    """Origin of the numbers, in a sentence: a measurement, a table of a paper, a derivation."""
    prefill: tuple[PrefillPoint, ...]
    decode: tuple[DecodePoint, ...] = ()
    batch_limit: int = 0
    """Largest decode batch that fits into memory; 0: that of the last decode point."""

    def __post_init__(self) -> None:
        if len(self.prefill) < 2:
            raise ProfileError(f"profile {self.name}: {len(self.prefill)} prefill point(s) given, at least 2 are needed.")
        for points, key in ((self.prefill, "tokens"), (self.decode, "batch")):
            if len(points) > MAX_POINTS:
                raise ProfileError(f"profile {self.name}: {len(points)} points of {key} given, at most {MAX_POINTS} are read.")
            for point in points:
                for field, value in msgspec.structs.asdict(point).items():
                    if not 0 < value < float("inf"):
                        raise ProfileError(f"profile {self.name}: {field} must be positive and finite, not {value}, in {point}.")
            sizes = [getattr(point, key) for point in points]
            if any(left >= right for left, right in pairwise(sizes)):
                raise ProfileError(f"profile {self.name}: {key} must rise from point to point, but they are {sizes[:20]}.")
        if self.batch_limit < 0:
            raise ProfileError(f"profile {self.name}: batch_limit must not be negative, but it is {self.batch_limit}.")

    def check_possible(self) -> None:
        """Raises ProfileError for curves that no machine has: values beyond LIMITS, or more work in less time or memory."""
        for points, key in ((self.prefill, "tokens"), (self.decode, "batch")):
            for point in points:
                for field, value in msgspec.structs.asdict(point).items():
                    low, high = LIMITS[field]
                    if not low <= value <= high:
                        raise ProfileError(f"profile {self.name}: {field} is {value:g}; expected {low:g} to {high:g}.")
            for left, right in pairwise(points):
                for curve in msgspec.structs.asdict(left):
                    before, after = getattr(left, curve), getattr(right, curve)
                    if after < before:
                        raise ProfileError(
                            f"profile {self.name}: {curve} falls from {before:g} at {getattr(left, key)} {key} to {after:g} at "
                            f"{getattr(right, key)}, which no machine does; measure again, with nothing else running."
                        )

    @property
    def last_tokens(self) -> int:
        """Length of the longest measured prefill: beyond it times are read off the extended line."""
        return self.prefill[-1].tokens

    def prefill_s(self, tokens: float) -> float:
        """T_prefill(l) in seconds."""
        left, right, part = _segment(self.prefill, tokens, _tokens)
        first = self.prefill[0]
        return _at_least_in_proportion(
            left.prefill_s + part * (right.prefill_s - left.prefill_s), first.prefill_s, tokens / first.tokens
        )

    def rest_s(self, tokens: float, cached_tokens: float) -> float:
        """Time of a prefill whose first `cached_tokens` are cached, s. What is computed attends to them as well, so it takes what
        the whole takes beyond them, with the part that every prefill takes; and no less than a prompt of that length alone."""
        alone_s = self.prefill_s(tokens - cached_tokens)
        if not cached_tokens:
            return alone_s
        return max(alone_s, self.prefill_s(tokens) - self.prefill_s(cached_tokens) + self.prefill_s(0.0))

    def kv_bytes(self, tokens: float) -> float:
        """S_kv(l) in bytes."""
        left, right, part = _segment(self.prefill, tokens, _tokens)
        first = self.prefill[0]
        return _at_least_in_proportion(
            left.kv_bytes + part * (right.kv_bytes - left.kv_bytes), first.kv_bytes, tokens / first.tokens
        )

    def kv_gbit_s(self, tokens: float) -> float:
        """Phi_kv(l), Eq 1, in Gbit/s."""
        return gbit_s(kv_bytes_per_s(self.kv_bytes(tokens), self.prefill_s(tokens)))

    def step_s(self, batch: float) -> float:
        """T_decode(batch) in seconds. Raises ProfileError when the profile has no decode points."""
        if not self.decode:
            raise ProfileError(f"profile {self.name} has no decode points: this machine can only prefill.")
        if len(self.decode) == 1:
            return self.decode[0].step_s
        left, right, part = _segment(self.decode, batch, _batch)
        first = self.decode[0]
        return _at_least_in_proportion(left.step_s + part * (right.step_s - left.step_s), first.step_s, batch / first.batch)

    def batch_max(self, tokens_per_s: float = 0.0) -> int:
        """BS_max: the largest measured batch that still gives every request `tokens_per_s` (the SLO); 0 without one.

        Raises ProfileError when the profile has no decode points."""
        self.step_s(1)
        last = self.decode[-1].batch
        limit = min(self.batch_limit or last, last)

        # A step of exactly 1 / SLO keeps the SLO; the slack is for the rounding of 1 / tokens_per_s.
        def too_slow(n: int) -> bool:
            return self.step_s(n) * tokens_per_s > 1 + 1e-9

        if not too_slow(limit):
            return limit
        # Between two points the step is a straight line, so the crossing below the first that is too slow is found by halves.
        ends = [0, *(point.batch for point in self.decode if point.batch < limit), limit]
        for low, high in reversed(list(pairwise(ends))):
            if not low or not too_slow(low):
                return low + bisect.bisect_left(range(low + 1, high + 1), True, key=too_slow)
        return 0

    def slowed(self, factor: float, name: str) -> "Profile":
        """Returns an assumed profile: the same model on a machine that takes `factor` times as long to prefill."""
        if not 0 < factor < float("inf"):
            raise ProfileError(f"profile {name}: a slowdown must be positive and finite, not {factor}.")
        points = tuple(msgspec.structs.replace(point, prefill_s=point.prefill_s * factor) for point in self.prefill)
        source = f"Assumed: prefill takes {factor:g} times as long as in {self.name}. {self.source}"
        return msgspec.structs.replace(self, name=name, source=source, prefill=points)

    def save(self, path: Path) -> None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ProfileError, which names the file and what is wrong in it."""
        try:
            return msgspec.json.decode(read_small(path), type=cls)
        except OSError as error:
            raise ProfileError(f"profile {path} cannot be read: {error.strerror}.") from error
        except RecursionError:
            raise ProfileError(f"profile {path} is not usable: its JSON is nested too deeply.") from None
        except (msgspec.MsgspecError, ValueError) as error:
            raise ProfileError(f"profile {path} is not usable: {str(error).rstrip('.')}.") from error


def _at_least_in_proportion(value: float, first: float, part: float) -> float:
    """Bounds `value` below the first point, where a steep line would reach zero: a `part` of a size costs its part at least."""
    return max(value, first * max(part, 0.0)) if part < 1 else value


def _segment(points: tuple[Point, ...], x: float, key: Callable[[Any], float]) -> tuple[Point, Point, float]:
    """Returns the two neighbouring points to read `x` from, and its place on their line (outside 0..1 at the ends)."""
    right = min(max(bisect.bisect_left(points, x, key=key), 1), len(points) - 1)
    left_x, right_x = key(points[right - 1]), key(points[right])
    return points[right - 1], points[right], (x - left_x) / (right_x - left_x)
