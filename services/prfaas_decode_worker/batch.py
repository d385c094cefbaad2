"""The loop that steps the engine on a thread of its own. Between two steps requests join and leave."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from prfaas.capacity.observed import ObservedTimes
from prfaas.engine.protocol import DecodeRow, Engine
from prfaas.telemetry.fault_points import FaultPoint, reach
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics.decode import DecodeMetrics
from prfaas.worker.engine_thread import engine_thread
from prfaas.worker.faults import fault_text
from prfaas_decode_worker.constraints import Constraints
from prfaas_decode_worker.decode_step import decode_step
from prfaas_decode_worker.events import Event, StepDone, StepFailed
from prfaas_decode_worker.service_core import DecodeCore, Row

log = get_logger(__name__)


class Batch:
    """The running batch. An error in a step ends the requests of the rows that it fails with, and no other."""

    def __init__(
        self,
        engine: Engine,
        core: DecodeCore,
        *,
        sequences: dict[str, Any],
        metrics: DecodeMetrics,
        tell: Callable[[Event], None],
        flushed: Callable[[], Awaitable[None]],
        constraints: Constraints,
    ) -> None:
        """Waits for `flushed` after each step, which returns when the step's events are on the bus.

        A slow bus so slows the batch, and takes no memory."""
        self.observed = ObservedTimes()
        """Times of the steps by the number of rows."""
        self._engine = engine
        self._core = core
        self._sequences = sequences
        self._metrics = metrics
        self._tell = tell
        self._flushed = flushed
        self._constraints = constraints
        self._samplers: dict[str, Any] = {}
        self._thread = engine_thread()
        self._work = asyncio.Event()

    def wake(self) -> None:
        """Tells the loop that there may be rows to decode."""
        self._work.set()

    def release(self, request_id: str) -> None:
        self._samplers.pop(request_id, None)
        self._constraints.end(request_id)

    async def run(self) -> None:
        while True:
            await self._work.wait()
            if not await self._step():
                self._work.clear()
            await self._flushed()

    def shut_down(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._constraints.shut_down()

    async def _step(self) -> bool:
        """Returns whether a step was done. Where none was, what it waits for wakes the loop."""
        rows = self._core.rows()
        if not rows:
            return False
        # What belongs to one request, its sampler above all, can only break that request.
        inputs: dict[str, DecodeRow] = {}
        for row in rows:
            try:
                # A row whose grammar is not ready sits the step out, and the others do not wait for it.
                if (entry := self._input(row)) is not None:
                    inputs[row.request_id] = entry
            except Exception as error:
                self._failed(row.request_id, error)
        if not inputs:
            return False
        started_s = time.monotonic()
        step = partial(decode_step, self._engine, list(inputs.values()))
        outcomes = await asyncio.get_running_loop().run_in_executor(self._thread, step)
        ended_s = time.monotonic()

        # A token for each row that has one, an end for each that has not.
        results = list(zip(inputs, outcomes, strict=True))
        for request_id in inputs:
            if (constraint := self._constraints.get(request_id)) is not None:
                constraint.end_step()
        tokens = tuple((request_id, outcome) for request_id, outcome in results if not isinstance(outcome, Exception))
        if tokens:
            self._tell(StepDone(ended_s, tokens))
        for request_id, outcome in results:
            if isinstance(outcome, Exception):
                self._failed(request_id, outcome)
        self._count(len(inputs), len(tokens), ended_s - started_s)
        return True

    def _count(self, rows: int, tokens: int, step_s: float) -> None:
        """Counts last, and without raising: a figure that cannot be kept must not cost the batch a token."""
        try:
            self._metrics.tokens.inc(tokens)
            if tokens == rows:  # a step that was done in parts says nothing of the engine's pace
                self._metrics.step_s.observe(step_s)
                self.observed.observe(rows, step_s)
        except Exception as error:
            log.error("step_not_counted", rows=rows, exc_info=error)

    def _input(self, row: Row) -> DecodeRow | None:
        """Returns None for a row that cannot be in the step yet."""
        constraint = self._constraints.get(row.request_id)
        if constraint is not None and not constraint.begin_step(row.token_id):
            return None
        reach(FaultPoint.DECODING, row.request_id, self._core.requests[row.request_id].generated)
        if row.request_id not in self._samplers:
            request = self._core.requests[row.request_id]
            self._samplers[row.request_id] = self._engine.sampler(request.generate.sampling, request.prompt)
        return DecodeRow(
            sequence=self._sequences[row.request_id],
            token_id=row.token_id,
            sampler=self._samplers[row.request_id],
            forbid_eos=row.forbid_eos,
            allowed=None if constraint is None else constraint.allowed,
        )

    def _failed(self, request_id: str, error: Exception) -> None:
        log.error("step_failed", request_id=request_id, reason=fault_text(error), exc_info=error)
        self._tell(StepFailed(time.monotonic(), (request_id,), f"the engine failed in a decode step: {fault_text(error)}"))
