"""Prefill jobs that a decode worker puts into the queues of sites, sealed where the site's jobs are."""

import secrets
from collections.abc import Sequence
from typing import NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import Span

from prfaas.bus.control import ControlBus
from prfaas.bus.jobs import JobQueue
from prfaas.contracts import subjects
from prfaas.contracts.kv import KVTransfer, PrefixSource
from prfaas.contracts.to_prefill import CancelPrefill, PrefillJob
from prfaas.contracts.wire import pack_tokens
from prfaas.engine.protocol import EngineDescription
from prfaas.sealing.job_seal import JobSeals
from prfaas.telemetry.logs import get_logger
from prfaas.transfer.direct_inbox import DirectInbox
from prfaas.worker.faults import fault_text
from prfaas_decode_worker.config import DecodeWorkerConfig

REMOTE_QUEUE_S = 2.0
"""Wait for a remote site's queue. It answers within a few round trips of the control connection, unless the link is down."""
QUEUE_MARGIN_S = 0.15
"""Time before a request's deadline at which the own site's queue is given up, so that the client hears what was wrong."""

log = get_logger(__name__)


class Prefill(NamedTuple):
    """One prefill as it is asked for."""

    request_id: str
    transfer: KVTransfer
    secret: bytes | None
    """Secret that the transfer's frames are sealed with; None: they come in clear."""
    prefill_site: str
    token_ids: Sequence[int]
    tenant: str
    timeout_s: float
    cache_scope: str


class PrefillJobs:
    def __init__(self, config: DecodeWorkerConfig, bus: ControlBus, description: EngineDescription) -> None:
        """Raises KeyFileError."""
        self.queue = JobQueue(bus)
        self._config = config
        self._site = config.site
        self._bus = bus
        self._description = description
        self._seals = JobSeals(config.sealing)

    def prefill(
        self,
        request_id: str,
        transfer_id: str,
        attempt: int,
        prefill_site: str,
        token_ids: Sequence[int],
        *,
        from_token: int,
        tenant: str,
        timeout_s: float,
        lossy: bool,
        cache_scope: str,
        inbox: DirectInbox | None = None,
    ) -> Prefill:
        """Returns a prefill with an object, and where its site is sealed a secret, of its own. KV of the own site comes to the
        `inbox` where that has room for it."""
        nuid = secrets.token_hex(11)
        secret = self._seals.new_secret(prefill_site)
        direct_inbox = None
        if inbox is not None and prefill_site == self._site:
            kv_bytes = self._description.layout.total_bytes(len(token_ids), from_token)
            direct_inbox = inbox.name if inbox.reserve(nuid, kv_bytes) else None
        transfer = KVTransfer(
            transfer_id=transfer_id,
            attempt=attempt,
            bucket=subjects.kv_bucket(self._site, prefill_site),
            nuid=nuid,
            prefill_tokens=len(token_ids),
            from_token=from_token,
            lossy=lossy,
            fingerprint=self._description.fingerprint,
            direct_inbox=direct_inbox,
        )
        return Prefill(request_id, transfer, secret, prefill_site, token_ids, tenant, timeout_s, cache_scope)

    async def submit(
        self,
        prefill: Prefill,
        *,
        worker: str | None = None,
        priority: int = 0,
        admitted: bool = False,
        pull: PrefixSource | None = None,
        parent: Span | Context | None = None,
    ) -> int:
        """Returns and raises what JobQueue.submit does."""
        job = PrefillJob(
            request_id=prefill.request_id,
            model=self._description.model,
            transfer=prefill.transfer,
            token_ids=pack_tokens(prefill.token_ids),
            reply_to=subjects.prefill_progress(self._site, self._config.name),
            decode_site=self._site,
            tenant=prefill.tenant,
            cache_scope=prefill.cache_scope,
            timeout_s=prefill.timeout_s,
            worker=worker,
            priority=priority,
            admitted=admitted,
            pull=pull,
        )
        if prefill.secret is not None:
            job = self._seals.seal(prefill.prefill_site, job, prefill.secret)
        remote = prefill.prefill_site != self._site
        return await self.queue.submit(
            prefill.prefill_site,
            job,
            timeout_s=min(prefill.timeout_s, REMOTE_QUEUE_S) if remote else max(0.0, prefill.timeout_s - QUEUE_MARGIN_S),
            parent=parent,
        )

    async def cancel(self, request_id: str, prefill_site: str, transfer_id: str, attempt: int) -> None:
        """Best effort: a prefill that does not hear of it finds its transfer dead, or its job expired."""
        try:
            cancel = CancelPrefill(transfer_id=transfer_id, attempt=attempt)
            await self._bus.publish(subjects.cancel_prefill(prefill_site, self._site), cancel)
        except Exception as error:
            log.warning("cancel_not_sent", request_id=request_id, prefill_site=prefill_site, reason=fault_text(error))
