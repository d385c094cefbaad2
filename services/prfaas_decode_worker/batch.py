"""The engine's thread and the loop that steps it: between two steps requests join and leave."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from prfaas.capacity.observed import ObservedTimes
from prfaas.engine.protocol import BadLogitsError, DecodeRow, Engine, EngineError
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics import DecodeMetrics
from prfaas.worker.engine_thread import engine_thread
from prfaas_decode_worker.events import Event, StepDone, StepFailed
from prfaas_decode_worker.service_core import DecodeCore

log = get_logger(__name__)


class Batch:
    def __init__(
        self,
        engine: Engine,
        core: DecodeCore,
        *,
        sequences: dict[str, Any],
        metrics: DecodeMetrics,
        tell: Callable[[Event], None],
        flushed: Callable[[], Awaitable[None]],
    ) -> None:
        """`flushed` returns when what the last step produced is on the bus: a slow bus slows the batch, not memory."""
        self.observed = ObservedTimes()
        """Of the steps, by batch."""
        self._engine = engine
        self._core = core
        self._sequences = sequences
        self._metrics = metrics
        self._tell = tell
        self._flushed = flushed
        self._samplers: dict[str, Any] = {}
        self._thread = engine_thread()
        self._work = asyncio.Event()

    def wake(self) -> None:
        """There may be rows to decode."""
        self._work.set()

    def release(self, request_id: str) -> None:
        self._samplers.pop(request_id, None)

    async def run(self) -> None:
        while True:
            await self._work.wait()
            if not await self._step():
                self._work.clear()
            await self._flushed()

    def shut_down(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _step(self) -> bool:
        rows = self._core.rows()
        if not rows:
            return False
        for row in rows:
            if row.request_id not in self._samplers:
                sampling = self._core.requests[row.request_id].generate.sampling
                self._samplers[row.request_id] = self._engine.sampler(sampling)
        inputs = [
            DecodeRow(
                sequence=self._sequences[row.request_id],
                token_id=row.token_id,
                sampler=self._samplers[row.request_id],
                forbid_eos=row.forbid_eos,
            )
            for row in rows
        ]
        request_ids = [row.request_id for row in rows]
        started_s = time.monotonic()
        try:
            tokens = await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.decode, inputs)
        except EngineError as error:
            failed = [request_ids[row] for row in error.rows] if isinstance(error, BadLogitsError) else request_ids
            log.error("step_failed", request_ids=failed, reason=str(error))
            self._tell(StepFailed(time.monotonic(), tuple(failed), str(error)))
            return True
        ended_s = time.monotonic()
        self._metrics.step_s.observe(ended_s - started_s)
        self.observed.observe(len(rows), ended_s - started_s)
        self._metrics.tokens.inc(len(tokens))
        self._tell(StepDone(ended_s, tuple(zip(request_ids, tokens, strict=True))))
        return True
