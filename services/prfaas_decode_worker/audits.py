"""Second opinions: a share of the prompts that other sites prefilled is prefilled at home too, and the KV compared.

Whether a prompt is audited is drawn here and told to no other process. The second prefill has background priority: local workers
do it when they have nothing else to do. An audit for which there is no room or time is dropped and counted.
"""

import asyncio
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from prfaas.bus.bulk import BulkLane
from prfaas.contracts.kv import TransferReport
from prfaas.contracts.to_decode import PrefillFailed, PrefillProgress
from prfaas.contracts.to_prefill import BACKGROUND_PRIORITY
from prfaas.contracts.to_scheduler import KVDisagreed
from prfaas.kvcache.layout import KVLayout
from prfaas.process.tasks import Tasks
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics.audit import AuditMetrics
from prfaas.transfer.errors import TransferError
from prfaas.transfer.receiver import KVReceiver
from prfaas.worker.faults import failure_code, fault_text
from prfaas_decode_worker.config import DecodeWorkerConfig
from prfaas_decode_worker.kv_comparison import KVComparison, Verdict
from prfaas_decode_worker.prefill_jobs import Prefill, PrefillJobs

NO_ROOM, NOT_SERVED = "no_room", "not_served"
"""Reasons to drop an audit, beside failure codes and Verdict.UNKNOWN."""

_UNFORESEEN = secrets.SystemRandom()

log = get_logger(__name__)


class Audited(NamedTuple):
    """A prefill of another site that was drawn, and what came of it."""

    prefill: Prefill
    comparison: KVComparison


class Audits:
    """Audits of a decode worker: those drawn and those under way count against `audits-at-once` and `audit-mib` together."""

    def __init__(
        self,
        config: DecodeWorkerConfig,
        jobs: PrefillJobs,
        lane: BulkLane,
        layout: KVLayout,
        tasks: Tasks,
        metrics: AuditMetrics,
        distrust: Callable[[KVDisagreed], None],
        draw: Callable[[], float] = _UNFORESEEN.random,
    ) -> None:
        """`distrust` is told of each disagreement. `draw` returns a number from 0 to 1 that other sites cannot foresee."""
        self._config = config
        self._jobs = jobs
        self._lane = lane
        self._layout = layout
        self._tasks = tasks
        self._metrics = metrics
        self._distrust = distrust
        self._draw = draw
        self._held: set[int] = set()
        """Comparisons that hold memory, by id."""
        self._held_bytes = 0
        self._running: dict[str, tuple[Prefill, asyncio.Future[PrefillFailed]]] = {}
        """Second prefills under way, by transfer."""

    def draw_for(self, prefill: Prefill) -> Audited | None:
        """Returns what is to take the KV of this prefill; None when it is not audited."""
        if prefill.prefill_site == self._config.site or self._draw() >= self._config.audit_share:
            return None
        transfer = prefill.transfer
        comparison = KVComparison(self._layout, transfer.prefill_tokens, transfer.from_token)
        full = self._held_bytes + comparison.size_bytes > self._config.audit_mib << 20
        if full or len(self._held) >= self._config.audits_at_once:
            self._metrics.skipped(prefill.prefill_site, NO_ROOM)
            return None
        self._held.add(id(comparison))
        self._held_bytes += comparison.size_bytes
        return Audited(prefill, comparison)

    def drop(self, audited: Audited, reason: str = NOT_SERVED) -> None:
        """Gives up an audit: its KV was not verified, or there is no second opinion."""
        self._metrics.skipped(audited.prefill.prefill_site, reason)
        self._free(audited)

    def begin(self, audited: Audited, worker: str) -> None:
        """Asks for the second opinion on KV that is verified. `worker`: what prefilled it, by its own word."""
        self._tasks.spawn(f"audit {audited.prefill.transfer.object_name}", self._run(audited, worker))

    def hear(self, progress: PrefillProgress) -> bool:
        """Takes progress of second prefills. Returns False for that of others."""
        found = self._running.get(progress.transfer_id)
        if found is None or not secrets.compare_digest(found[0].transfer.nuid, progress.nuid):
            return False
        if isinstance(progress, PrefillFailed) and not found[1].done():
            found[1].set_result(progress)
        return True

    async def _run(self, audited: Audited, worker: str) -> None:
        first, comparison = audited
        try:
            refusal = await self._prefilled_again(first, comparison)
            if refusal is None:
                self._judge(first, comparison, worker)
            else:
                self._metrics.skipped(first.prefill_site, refusal)
        except Exception as error:  # an audit costs its request nothing
            code = failure_code(error)
            self._metrics.skipped(first.prefill_site, code)
            log.warning("kv_audit_dropped", request_id=first.request_id, code=code, reason=fault_text(error))
        finally:
            self._free(audited)

    async def _prefilled_again(self, first: Prefill, comparison: KVComparison) -> str | None:
        """Returns None when all was compared, else the code of the failure. Raises BusError."""
        second = self._jobs.prefill(
            first.request_id,
            f"{first.transfer.transfer_id}.audit",
            first.transfer.attempt,
            self._config.site,
            first.token_ids,
            from_token=first.transfer.from_token,
            tenant=first.tenant,
            timeout_s=self._config.audit_timeout_s,
            lossy=False,
            cache_scope=first.cache_scope,
        )
        receiver = KVReceiver(
            self._lane,
            second.transfer,
            self._layout,
            comparison.compare,
            timeout_s=second.timeout_s,
            idle_timeout_s=self._config.idle_timeout_s,
            secret=second.secret,
        )
        failed: asyncio.Future[PrefillFailed] = asyncio.get_running_loop().create_future()
        verified: asyncio.Future[TransferReport] | None = None
        self._running[second.transfer.transfer_id] = second, failed
        try:
            await receiver.open()
            await self._jobs.submit(second, priority=BACKGROUND_PRIORITY)
            verified = asyncio.ensure_future(receiver.verified(second.timeout_s))
            waiting: list[asyncio.Future[Any]] = [verified, failed]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not verified.done():
                await self._cancel(second)
                return failed.result().code
            verified.result()
            return None
        except TransferError as error:
            await self._cancel(second)
            return error.code
        finally:
            del self._running[second.transfer.transfer_id]
            if verified is not None:
                verified.cancel()
            await receiver.close()

    async def _cancel(self, second: Prefill) -> None:
        """Tells that a second prefill is over. One that has failed is told until then."""
        transfer = second.transfer
        await self._jobs.cancel(second.request_id, second.prefill_site, transfer.transfer_id, transfer.attempt)

    def _judge(self, first: Prefill, comparison: KVComparison, worker: str) -> None:
        verdict = comparison.verdict(self._config.audit_tolerance)
        if verdict is Verdict.UNKNOWN:
            self._metrics.skipped(first.prefill_site, verdict.value)
            return
        self._metrics.done(first.prefill_site, verdict.value, comparison.difference)
        if verdict is Verdict.DISAGREED:
            log.error(
                "kv_audit_disagreed",
                request_id=first.request_id,
                prefill_site=first.prefill_site,
                worker=worker,
                difference=comparison.difference,
            )
            self._distrust(KVDisagreed(site=first.prefill_site, worker=worker[:64], request_id=first.request_id))

    def _free(self, audited: Audited) -> None:
        self._held.remove(id(audited.comparison))
        self._held_bytes -= audited.comparison.size_bytes


def teeing(install: Callable[..., None], audited: Audited | None) -> Callable[..., None]:
    """Returns `install`, which gives each piece to the audit too where there is one."""
    return install if audited is None else partial(_install_both, install, audited.comparison.take)


def _install_both(install: Callable[..., None], take: Callable[..., None], piece: object) -> None:
    install(piece)
    take(piece)
