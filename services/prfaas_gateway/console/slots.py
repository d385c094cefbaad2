"""Requests counted in slots of some seconds, over the last quarter of an hour. Pure."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from prfaas.console.schema import SLOT_S, SLOTS, SlotItem

BINS_PER_DOUBLING: Final = 8
"""Bins of the times to first token: a percentile is within 5 % of the exact one."""
_LEAST_S: Final = 1e-4


@dataclass(slots=True)
class _Slot:
    ended: Counter[str] = field(default_factory=Counter)
    ttft_bins: Counter[int] = field(default_factory=Counter)


class Slots:
    """Bounded by SLOTS and the bins: it takes the same memory however many requests there are."""

    def __init__(self) -> None:
        self._slots: dict[int, _Slot] = {}

    def ended(self, became: str, unix_s: float) -> None:
        self._slot(unix_s).ended[became] += 1

    def first_token(self, ttft_s: float, unix_s: float) -> None:
        self._slot(unix_s).ttft_bins[round(BINS_PER_DOUBLING * math.log2(max(_LEAST_S, ttft_s)))] += 1

    def items(self, unix_s: float) -> dict[str, SlotItem]:
        """Returns the slots up to this moment; one without a request is left out."""
        self._drop_old(int(unix_s // SLOT_S))
        return {str(number): _item(slot) for number, slot in self._slots.items()}

    @property
    def empty(self) -> bool:
        return not self._slots

    def validate(self) -> None:
        assert len(self._slots) <= SLOTS

    def _slot(self, unix_s: float) -> _Slot:
        number = int(unix_s // SLOT_S)
        if number not in self._slots:
            self._drop_old(number)
            self._slots[number] = _Slot()
            while len(self._slots) > SLOTS:  # the clock went back
                del self._slots[max(self._slots)]
        return self._slots[number]

    def _drop_old(self, newest: int) -> None:
        for number in [number for number in self._slots if number <= newest - SLOTS]:
            del self._slots[number]


def _item(slot: _Slot) -> SlotItem:
    return SlotItem(
        ended=dict(slot.ended),
        ttft_count=slot.ttft_bins.total(),
        ttft_p50_s=_percentile(slot.ttft_bins, 0.5),
        ttft_p90_s=_percentile(slot.ttft_bins, 0.9),
    )


def _percentile(bins: Mapping[int, int], share: float) -> float | None:
    """Returns the middle of the bin in which the nearest rank falls; None without a value."""
    rank, seen = math.ceil(share * sum(bins.values())), 0
    for number in sorted(bins):
        seen += bins[number]
        if seen >= rank:
            return round(math.pow(2.0, number / BINS_PER_DOUBLING), 6)
    return None
