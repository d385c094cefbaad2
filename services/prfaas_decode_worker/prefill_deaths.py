"""Prompts that prefill workers did not survive, so that one prompt does not take all workers of a fleet, one after another."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

import xxhash

from prfaas.contracts.wire import pack_tokens
from prfaas_decode_worker.prefill_watch_core import Holder

MAX_DEATHS: Final = 2
"""Workers that may die of one prompt. The first may have died of anything; the second makes it the prompt."""
REMEMBERED_S: Final = 600.0
"""Time after its last death for which a prompt is remembered."""
MAX_PROMPTS: Final = 4096
"""Prompts that are remembered; the one whose last death is the longest ago is forgotten first."""

DEADLY: Final = (
    f"{MAX_DEATHS} prefill workers were lost while they computed this prompt; no other one gets it within {REMEMBERED_S:.0f} s"
)
"""Sentence for the client."""


class _Deaths(NamedTuple):
    workers: frozenset[Holder]
    last_at: float


class PrefillDeaths:
    """Pure: deaths and successes in, verdicts out. Moments are of any one clock, in s."""

    def __init__(self) -> None:
        self._deaths: OrderedDict[bytes, _Deaths] = OrderedDict()
        """Deaths by prompt, the latest last."""

    def died(self, prompt: Sequence[int], worker: Holder, now_s: float) -> None:
        """Counts a worker that died while it computed the prompt."""
        workers = self._of(prompt, now_s) | {worker}
        self._deaths[_identity(prompt)] = _Deaths(workers, now_s)
        self._deaths.move_to_end(_identity(prompt))
        while len(self._deaths) > MAX_PROMPTS:
            self._deaths.popitem(last=False)

    def lives(self, worker: Holder) -> None:
        """Takes back that a worker died."""
        for prompt, deaths in list(self._deaths.items()):
            if worker in deaths.workers and (left := deaths.workers - {worker}):
                self._deaths[prompt] = deaths._replace(workers=left)
            elif worker in deaths.workers:
                del self._deaths[prompt]

    def survived(self, prompt: Sequence[int]) -> None:
        """Forgets the prompt's deaths: a worker has computed it."""
        if self._deaths:
            self._deaths.pop(_identity(prompt), None)

    def count(self, prompt: Sequence[int], now_s: float) -> int:
        """Counts the deaths that are not too long ago."""
        return len(self._of(prompt, now_s))

    def deadly(self, prompt: Sequence[int], now_s: float) -> bool:
        return self.count(prompt, now_s) >= MAX_DEATHS

    def validate(self) -> None:
        moments = [deaths.last_at for deaths in self._deaths.values()]
        assert len(moments) <= MAX_PROMPTS and moments == sorted(moments)
        assert all(deaths.workers for deaths in self._deaths.values())

    def _of(self, prompt: Sequence[int], now_s: float) -> frozenset[Holder]:
        while self._deaths and now_s - next(iter(self._deaths.values())).last_at >= REMEMBERED_S:
            self._deaths.popitem(last=False)
        found = self._deaths.get(_identity(prompt)) if self._deaths else None
        return frozenset() if found is None else found.workers


def _identity(prompt: Sequence[int]) -> bytes:
    return xxhash.xxh3_128_digest(pack_tokens(prompt))
