"""Readiness of a prefill worker, told to its dispatcher, and whether one answers: in the order of its shell."""

from collections.abc import Callable
from math import inf

from load.worlds.clockwork import Process, Timer
from load.worlds.model import MODEL
from load.worlds.network import Network
from load.worlds.plan import dispatcher_of
from prfaas.bus.errors import BusError
from prfaas.capacity.observed import ObservedTimes
from prfaas.contracts.to_scheduler import PrefillReadiness
from prfaas_prefill_worker.readiness import ALONE_AFTER_S, ANSWER_TIMEOUT_S, REPEAT_S, REPEAT_UNANSWERED_S


class Readiness:
    def __init__(
        self,
        worker: Process,
        network: Network,
        incarnation: str,
        observed: ObservedTimes,
        changed: Callable[[], None],
        *,
        dispatched: bool,
    ) -> None:
        """`changed` is called when a dispatcher begins or ceases to answer. Without `dispatched` the site never has one, and
        none is asked for: no answer would change nothing."""
        self.taken = 0
        """Jobs that were taken from the worker's own queue."""
        self.first_come = True
        """True while no dispatcher answers: the worker takes queued jobs itself."""
        self._worker = worker
        self._network = network
        self._incarnation = incarnation
        self._observed = observed
        self._changed = changed
        self._dispatched = dispatched
        self._ready = False
        self._answered_at = -inf
        self._next: Timer | None = None

    def start(self) -> None:
        """Tells it now, and again and again."""
        if self._dispatched:
            self._worker.spawn(self._tell())

    def set(self, *, ready: bool) -> None:
        """Notes whether the worker waits for a job. A change is told at once."""
        if ready is not self._ready:
            self._ready = ready
            self.start()

    async def _tell(self) -> None:
        worker = self._worker
        told = PrefillReadiness(
            worker=worker.name,
            incarnation=self._incarnation,
            model=MODEL,
            ready=self._ready,
            taken=self.taken,
            prefill_points=self._observed.points(),
        )
        self._cancel_next()
        try:
            await self._network.ask(worker, dispatcher_of(worker.site), "hear_readiness", told, timeout_s=ANSWER_TIMEOUT_S)
            self._answered_at = worker.monotonic_s
            self._take_alone(False)
        except BusError:
            if worker.monotonic_s - self._answered_at >= ALONE_AFTER_S:
                self._take_alone(True)
        self._cancel_next()
        self._next = worker.call_later(REPEAT_UNANSWERED_S if self.first_come else REPEAT_S, self.start)

    def _cancel_next(self) -> None:
        if self._next is not None:
            self._next.cancelled = True

    def _take_alone(self, alone: bool) -> None:
        if alone is not self.first_come:
            self.first_come = alone
            self._changed()
