"""Failures of prefills told again by a process, with the real UnheardFailures: as ProgressTeller and Refusals do it."""

from typing import Protocol

from load.worlds.clockwork import Process
from load.worlds.network import Network
from load.worlds.plan import HOME
from prfaas.bus.unheard_failures import UnheardFailures
from prfaas.contracts.to_decode import PrefillFailed
from prfaas.contracts.to_prefill import CancelPrefill, PrefillJob


class Taken(Protocol):
    @property
    def job(self) -> PrefillJob: ...

    @property
    def age_s(self) -> float: ...


class FailureRepeater:
    def __init__(self, process: Process, network: Network, look_every_s: float) -> None:
        self._process = process
        self._network = network
        self._look_every_s = look_every_s
        self._core = UnheardFailures()
        self._looking = False

    @property
    def unheard(self) -> int:
        return len(self._core)

    def told(self, taken: Taken, failed: PrefillFailed) -> None:
        now_s = self._process.monotonic_s
        until_at = now_s + taken.job.timeout_s - taken.age_s
        self._core.handle_told(HOME, taken.job.reply_to, failed, until_at, now_s)
        self._core.validate()
        if self.unheard and not self._looking:
            self._looking = True
            self._process.call_later(self._look_every_s, self._look)

    def cancelled(self, cancel: CancelPrefill) -> None:
        self._core.handle_cancel(HOME, cancel)

    def _look(self) -> None:
        """Looks while there is something to repeat: other looks change nothing."""
        for reply_to, failed in self._core.take_due(self._process.monotonic_s):
            self._network.tell(self._process, reply_to, "hear_progress", self._process.site, failed)
        self._core.validate()
        self._looking = bool(self.unheard)
        if self._looking:
            self._process.call_later(self._look_every_s, self._look)
