"""Second opinions in the order of Audits, with the real KVComparison; and the lies that they are to find."""

from typing import NamedTuple

from msgspec.structs import replace

from load.worlds.clockwork import Future, Process
from load.worlds.model import LAYOUT, MODEL
from load.worlds.plan import HOME, dispatcher_of
from load.worlds.receiving import Receiver, settled
from load.worlds.surroundings import Surroundings
from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.to_decode import PrefillFailed, PrefillProgress
from prfaas.contracts.to_prefill import BACKGROUND_PRIORITY, CancelPrefill, PrefillJob
from prfaas.contracts.to_scheduler import KVDisagreed
from prfaas.contracts.wire import pack_tokens
from prfaas.kvcache.layout import KVPiece, LayerKind
from prfaas_decode_worker.kv_comparison import KVComparison, Verdict
from prfaas_decode_worker.prefill_jobs import QUEUE_MARGIN_S

AT_ONCE = 2
TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 10.0


class Audited(NamedTuple):
    """A prefill of another site that was drawn."""

    site: str
    request_id: str
    transfer: KVTransfer
    token_ids: tuple[int, ...]
    comparison: KVComparison


class Audits:
    def __init__(self, worker: Process, world: Surroundings) -> None:
        self.held: dict[str, Audited] = {}
        """Audits that are drawn or under way, by the name of the object."""
        self._worker = worker
        self._world = world
        self._running: dict[str, tuple[str, Future[PrefillFailed]]] = {}
        """Object of the second prefill and its failure, by transfer."""

    def draw_for(self, site: str, request_id: str, transfer: KVTransfer, token_ids: tuple[int, ...]) -> Audited | None:
        if site == HOME or not self._world.plan.audited or len(self.held) >= AT_ONCE:
            return None
        comparison = KVComparison(LAYOUT, transfer.prefill_tokens, transfer.from_token)
        audited = Audited(site, request_id, transfer, token_ids, comparison)
        self.held[transfer.nuid] = audited
        return audited

    def drop(self, audited: Audited) -> None:
        del self.held[audited.transfer.nuid]

    def begin(self, audited: Audited, worker: str) -> None:
        self._worker.spawn(self._run(audited, worker))

    def hear(self, progress: PrefillProgress) -> bool:
        """Takes progress of second prefills. Returns False for that of others."""
        found = self._running.get(progress.transfer_id)
        if found is None or found[0] != progress.nuid:
            return False
        if isinstance(progress, PrefillFailed):
            found[1].set(progress)
        return True

    async def _run(self, audited: Audited, worker: str) -> None:
        try:
            if await self._compared(audited):
                self._judge(audited, worker)
        finally:
            if self._worker.alive:
                self.drop(audited)

    async def _compared(self, audited: Audited) -> bool:
        """Returns whether the own site has prefilled the prompt too, and all was compared."""
        process, first = self._worker, audited.transfer
        transfer_id = f"{first.transfer_id}.audit"
        second = replace(first, transfer_id=transfer_id, nuid=f"{first.nuid}a")
        receiver = Receiver(
            process, self._world.store, second, audited.comparison.compare, timeout_s=TIMEOUT_S, idle_timeout_s=IDLE_TIMEOUT_S,
            secret=None,
        )  # fmt: skip
        failed: Future[PrefillFailed] = Future()
        self._running[transfer_id] = second.nuid, failed
        done = False
        try:
            await receiver.open()
            await self._submit(audited, second)
            verified = process.spawn(settled(receiver, TIMEOUT_S))
            await process.wait([verified, failed])
            done = verified.done and verified.result()[1] is None
            verified.cancel()
        except Exception:  # an audit costs its request nothing
            done = False
        finally:
            if process.alive:
                del self._running[transfer_id]
                await receiver.close()
                if not done:
                    self._cancel(second)
        return done

    async def _submit(self, audited: Audited, second: KVTransfer) -> None:
        job = PrefillJob(
            request_id=audited.request_id,
            model=MODEL,
            transfer=second,
            token_ids=pack_tokens(audited.token_ids),
            reply_to=self._worker.name,
            decode_site=HOME,
            timeout_s=TIMEOUT_S,
            priority=BACKGROUND_PRIORITY,
        )
        await self._world.jobs[HOME].queued.submit(self._worker, job, timeout_s=TIMEOUT_S - QUEUE_MARGIN_S)

    def _cancel(self, second: KVTransfer) -> None:
        cancel = CancelPrefill(transfer_id=second.transfer_id, attempt=second.attempt)
        for name in (dispatcher_of(HOME), *self._world.prefill_workers_of(HOME)):
            self._world.network.tell(self._worker, name, "hear_cancel", cancel)

    def _judge(self, audited: Audited, worker: str) -> None:
        verdict = audited.comparison.verdict()
        lied = audited.transfer.nuid in self._world.lies
        if lied is not (verdict is Verdict.DISAGREED):
            said = "a lie" if lied else "honest"
            self._world.violations.append(f"KV of {audited.transfer.object_name} is {said}, and an audit {verdict.value}")
        if verdict is Verdict.DISAGREED:
            told = KVDisagreed(site=audited.site, worker=worker, request_id=audited.request_id)
            for scheduler in self._world.plan.schedulers:
                self._world.network.tell(self._worker, scheduler, "hear_disagreement", told)


def lie(piece: KVPiece) -> KVPiece:
    """Returns other keys of full layers: the frames' checksums are right, and the KV is not."""
    if LAYOUT.layers[piece.range.layer].kind is not LayerKind.FULL:
        return piece
    return KVPiece(piece.range, memoryview(bytes(byte ^ 0x40 for byte in bytes(piece.keys))), piece.values)
