"""State of one attempt to get a request's KV, which progress messages and cancellation must reach."""

import asyncio
import secrets

from opentelemetry.trace import Span

from prfaas.contracts.kv import TransferReport
from prfaas.contracts.to_decode import PrefillFailed
from prfaas.transfer.receiver import KVReceiver
from prfaas_decode_worker.events import BeginAttempt
from prfaas_decode_worker.prefill_jobs import Prefill
from prfaas_decode_worker.prefill_watch import Holding


class Attempt:
    def __init__(self, order: BeginAttempt, span: Span) -> None:
        self.order = order
        self.span = span
        self.receiver: KVReceiver | None = None
        self.prefill_failed: asyncio.Future[PrefillFailed] = asyncio.get_running_loop().create_future()
        self.prefill: Prefill | None = None
        """Order to a prefill worker; None until it was asked."""
        self.holding = Holding(order.prefill_site)
        self.queue_s = 0.0
        self.settled = False
        """The core has been told how it ended, or does not want to know."""
        self.verified_ns = 0

    @property
    def is_direct(self) -> bool:
        return self.prefill is not None and self.prefill.transfer.direct_inbox is not None

    def kv_leaves(self, *, direct: bool) -> None:
        """Takes which way the prefill worker sends the KV."""
        if not direct and self.receiver is not None:
            self.receiver.read_object()

    def may_report(self, prefill_site: str, nuid: str) -> bool:
        """Returns whether progress is from a worker that has the job: it is of the job's site, and knows the object's name."""
        named = self.prefill is not None and secrets.compare_digest(self.prefill.transfer.nuid, nuid)
        return named and prefill_site == self.order.prefill_site

    @property
    def report(self) -> TransferReport:
        """Report on the KV that has come so far."""
        return TransferReport(attempts=self.order.attempt) if self.receiver is None else self.receiver.report()
