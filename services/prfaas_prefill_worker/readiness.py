"""Tells the site's dispatcher whether the worker would begin a job now, and the worker whether a dispatcher answers."""

import asyncio
import time
from math import inf
from typing import Final

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError
from prfaas.bus.job_consumer import JobConsumer
from prfaas.capacity.observed import ObservedTimes
from prfaas.contracts import subjects
from prfaas.contracts.to_prefill import DispatcherHere
from prfaas.contracts.to_scheduler import PrefillReadiness
from prfaas.contracts.wire import BadMessageError
from prfaas.telemetry.logs import get_logger
from prfaas.worker.identity import Identity

REPEAT_S: Final = 1.0
REPEAT_UNANSWERED_S: Final = 0.5
ANSWER_TIMEOUT_S: Final = 0.5
ALONE_AFTER_S: Final = 1.0
"""Silence of the dispatcher after which the worker takes queued jobs by itself, until it answers again."""

log = get_logger(__name__)


class Readiness:
    """Owns `consumer.first_come`."""

    def __init__(
        self, bus: ControlBus, identity: Identity, incarnation: str, model: str, consumer: JobConsumer, observed: ObservedTimes
    ) -> None:
        self._bus = bus
        self._identity = identity
        self._incarnation = incarnation
        self._model = model
        self._consumer = consumer
        self._observed = observed
        self._ready = False
        self._changed = asyncio.Event()
        self._answered_at = -inf

    def set(self, *, ready: bool) -> None:
        """Notes whether the worker waits for a job; a change is told at once."""
        if ready is not self._ready:
            self._ready = ready
            self._changed.set()

    async def run(self) -> None:
        """Tells the dispatcher again and again, until it is cancelled."""
        while True:
            self._changed.clear()
            await self.tell()
            try:
                async with asyncio.timeout(REPEAT_UNANSWERED_S if self._consumer.first_come else REPEAT_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def tell(self) -> int:
        """Tells the dispatcher now. Returns the number of jobs that are on their way from it; 0 without an answer."""
        told = PrefillReadiness(
            worker=self._identity.worker,
            incarnation=self._incarnation,
            model=self._model,
            ready=self._ready,
            taken=self._consumer.taken,
            prefill_points=self._observed.points(),
        )
        subject = subjects.readiness(self._identity.site, self._identity.worker)
        try:
            here = await self._bus.request(subject, told, DispatcherHere, ANSWER_TIMEOUT_S)
        except (BusError, BadMessageError) as error:
            if time.monotonic() - self._answered_at >= ALONE_AFTER_S:
                self._take_alone(str(error))
            return 0
        self._answered_at = time.monotonic()
        self._take_alone("")
        return here.outstanding

    def _take_alone(self, reason: str) -> None:
        """Notes whether the worker takes jobs by itself: only for a reason, the dispatcher's silence."""
        alone = bool(reason)
        if alone is not self._consumer.first_come:
            self._consumer.first_come = alone
            log.info("jobs_first_come" if alone else "jobs_dispatched", reason=reason)
