"""What one instance of a model on one kind of machine can do: T_prefill(l), S_kv(l), decode step time and batch limit.

A profile is a list of measured points. Between two points values are read off the straight line through them, outside
along the line of the outermost two: a prefill curve that bends upward is underestimated beyond its last point.
"""

import bisect
from collections.abc import Callable
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from prfaas.capacity.equations import kv_bytes_per_s

BITS_PER_BYTE = 8
Point = TypeVar("Point")
_tokens = attrgetter("tokens")
_batch = attrgetter("batch")


def gbit_s(bytes_per_s: float) -> float:
    return bytes_per_s * BITS_PER_BYTE / 1e9


class ProfileError(ValueError):
    """A profile that cannot be used; the message names it and says why."""


class PrefillPoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tokens: int
    """Uncached tokens that the instance prefills."""
    prefill_s: float
    """T_prefill(tokens): latency of the whole prefill on an otherwise idle instance."""
    kv_bytes: float
    """S_kv(tokens): cache of a request of this length."""


class DecodePoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    batch: int
    step_s: float
    """Time of one decode step with `batch` requests in it."""


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Points are in rising order of tokens and batch; raises ProfileError where they are not usable.

    `decode` may be empty for a machine that only prefills."""

    name: str
    source: str
    """Where the numbers come from, in a sentence: a measurement, a table of a paper, a derivation."""
    prefill: tuple[PrefillPoint, ...]
    decode: tuple[DecodePoint, ...] = ()
    batch_limit: int = 0
    """Largest decode batch that fits into memory; 0: that of the last decode point."""

    def __post_init__(self) -> None:
        if len(self.prefill) < 2:
            raise ProfileError(f"profile {self.name}: {len(self.prefill)} prefill point(s) given, at least 2 are needed.")
        for points, key in ((self.prefill, "tokens"), (self.decode, "batch")):
            for point in points:
                for field, value in msgspec.structs.asdict(point).items():
                    if not 0 < value < float("inf"):
                        raise ProfileError(f"profile {self.name}: {field} must be positive and finite, not {value}, in {point}.")
            sizes = [getattr(point, key) for point in points]
            if any(left >= right for left, right in pairwise(sizes)):
                raise ProfileError(f"profile {self.name}: {key} must rise from point to point, but they are {sizes}.")
        if self.batch_limit < 0:
            raise ProfileError(f"profile {self.name}: batch_limit must not be negative, but it is {self.batch_limit}.")

    def prefill_s(self, tokens: float) -> float:
        """T_prefill(l) in seconds."""
        left, right, part = _segment(self.prefill, tokens, _tokens)
        return self._at_least_in_proportion(
            tokens, left.prefill_s + part * (right.prefill_s - left.prefill_s), self.prefill[0].prefill_s
        )

    def kv_bytes(self, tokens: float) -> float:
        """S_kv(l) in bytes."""
        left, right, part = _segment(self.prefill, tokens, _tokens)
        return self._at_least_in_proportion(
            tokens, left.kv_bytes + part * (right.kv_bytes - left.kv_bytes), self.prefill[0].kv_bytes
        )

    def _at_least_in_proportion(self, tokens: float, value: float, first: float) -> float:
        """Below the first point a steep line would go through zero; what is shorter costs at least its part of that point."""
        return max(value, first * min(tokens / self.prefill[0].tokens, 1.0)) if tokens < self.prefill[0].tokens else value

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
        return max(0.0, left.step_s + part * (right.step_s - left.step_s))

    def batch_max(self, tokens_per_s: float = 0.0) -> int:
        """BS_max: the largest measured batch that still gives every request `tokens_per_s` (the SLO); 0 when none does.

        Raises ProfileError when the profile has no decode points."""
        self.step_s(1)
        last = self.decode[-1].batch
        limit = min(self.batch_limit or last, last)
        # A step of exactly 1 / SLO keeps the SLO; the slack is for the rounding of 1 / tokens_per_s.
        fits = (n for n in range(limit, 0, -1) if self.step_s(n) * tokens_per_s <= 1 + 1e-9)
        return next(fits, 0)

    def slowed(self, factor: float, name: str) -> "Profile":
        """The same model on a machine that takes `factor` times as long to prefill: an assumption, and it says so."""
        if not factor > 0:
            raise ProfileError(f"profile {name}: a slowdown must be positive, not {factor}.")
        points = tuple(msgspec.structs.replace(point, prefill_s=point.prefill_s * factor) for point in self.prefill)
        source = f"Assumed: prefill takes {factor:g} times as long as in {self.name}. {self.source}"
        return msgspec.structs.replace(self, name=name, source=source, prefill=points)

    def save(self, path: Path) -> None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ProfileError, which names the file and what is wrong in it."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise ProfileError(f"profile {path} cannot be read: {error.strerror}.") from error
        except msgspec.DecodeError as error:
            raise ProfileError(f"profile {path} is not usable: {error}") from error


def _segment(points: tuple[Point, ...], x: float, key: Callable[[Any], float]) -> tuple[Point, Point, float]:
    """The two neighbouring points to read `x` from, and how far along their line it lies (outside 0..1 at the ends)."""
    right = min(max(bisect.bisect_left(points, x, key=key), 1), len(points) - 1)
    left_x, right_x = key(points[right - 1]), key(points[right])
    return points[right - 1], points[right], (x - left_x) / (right_x - left_x)
