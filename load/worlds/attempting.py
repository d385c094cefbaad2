"""Attempts of a decode worker to get KV, in the order of its shell: reserve, read, then the job, then the first of three ends."""

from collections.abc import Callable

from load.worlds.auditing import Audited, Audits
from load.worlds.clockwork import CancelledError, Future, Process, Task
from load.worlds.model import CHUNK_TOKENS, FINGERPRINT, LAYOUT, MODEL, KVSequence
from load.worlds.plan import HOME, dispatcher_of
from load.worlds.prefill_watching import Holding, PrefillWatching
from load.worlds.receiving import Receiver, opened, settled
from load.worlds.seals import home_seals
from load.worlds.surroundings import Surroundings
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVTransfer, TransferReport
from prfaas.contracts.to_decode import PrefillDispatched, PrefillDone, PrefillFailed, PrefillProgress, PrefillStarted
from prfaas.contracts.to_prefill import CancelPrefill, PrefillJob
from prfaas.contracts.wire import pack_tokens
from prfaas.kvcache.layout import KVPiece, LayerKind, LayerRange
from prfaas.transfer.errors import TransferError
from prfaas.worker.faults import failure_code, fault_text
from prfaas_decode_worker.attempt import ABORT_REASON_S
from prfaas_decode_worker.audits import teeing
from prfaas_decode_worker.events import (
    AttemptFailed,
    AttemptVerified,
    BeginAttempt,
    EndAttempt,
    Event,
    PrefillTimed,
    RequestBroken,
    WorkerAnswered,
)
from prfaas_decode_worker.prefill_jobs import QUEUE_MARGIN_S, REMOTE_QUEUE_S
from prfaas_decode_worker.prefill_watch import Loss
from prfaas_decode_worker.prefill_watch_core import Holder

IDLE_TIMEOUT_S = 10.0
KEPT_PROMPTS = 16


class Attempt:
    """State of one running attempt, which progress messages and cancellation must reach."""

    def __init__(self, order: BeginAttempt, nuid: str) -> None:
        self.order = order
        self.nuid = nuid
        self.receiver: Receiver | None = None
        self.prefill_failed: Future[PrefillFailed] = Future()
        self.holding = Holding(order.prefill_site)
        self.queue_s = 0.0
        self.asked = False
        """True when a prefill worker may have its job."""
        self.settled = False

    @property
    def report(self) -> TransferReport:
        return TransferReport(attempts=self.order.attempt) if self.receiver is None else self.receiver.report()


class Attempts:
    def __init__(self, worker: Process, incarnation: str, world: Surroundings, tell: Callable[[Event], None]) -> None:
        self._worker = worker
        self._incarnation = incarnation
        self._world = world
        self._tell = tell
        self._watch = PrefillWatching(worker, world)
        self.audits = Audits(worker, world)
        self._seals = home_seals(world.plan.sealed)
        self.running: dict[str, tuple[Attempt, Task]] = {}
        """Current attempt and its task, by request."""
        self._transfers: dict[str, Attempt] = {}
        self.sequences: dict[str, KVSequence] = {}
        self.receivers: dict[str, Receiver] = {}
        """Open receivers by the name of their object."""
        self._kept: dict[tuple[int, ...], tuple[KVPiece, str]] = {}
        """Full layers' KV of verified prompts and the site that made it, by the prompt up to each block's end."""

    def begin(self, order: BeginAttempt) -> None:
        attempt = Attempt(order, f"{self._worker.name}x{self._incarnation}x{self._world.next_number()}")
        self.running[order.request_id] = attempt, self._worker.spawn(self._guarded(attempt))
        self._transfers[order.transfer_id] = attempt

    def end(self, order: EndAttempt) -> None:
        attempt, task = self.running.pop(order.request_id)
        self._transfers.pop(attempt.order.transfer_id, None)
        assert attempt.order.attempt == order.attempt
        if not attempt.settled:
            attempt.settled = True
            task.cancel()
        if attempt.asked:
            cancel = CancelPrefill(transfer_id=attempt.order.transfer_id, attempt=attempt.order.attempt)
            site = order.prefill_site
            for name in (dispatcher_of(site), *self._world.prefill_workers_of(site)):
                self._world.network.tell(self._worker, name, "hear_cancel", cancel)

    def release(self, request_id: str) -> None:
        self.sequences.pop(request_id, None)
        if (found := self.running.pop(request_id, None)) is not None:
            self._transfers.pop(found[0].order.transfer_id, None)

    def hear(self, prefill_site: str, progress: PrefillProgress) -> None:
        if prefill_site == HOME and self.audits.hear(progress):
            return
        attempt = self._transfers.get(progress.transfer_id)
        if attempt is None or attempt.order.attempt != progress.attempt:
            return
        if attempt.order.prefill_site != prefill_site or attempt.nuid != progress.nuid:
            return
        match progress:
            case PrefillDispatched(worker=worker, incarnation=incarnation):
                attempt.holding.held_by(worker, incarnation)
            case PrefillStarted(queue_s=queue_s, worker=worker, incarnation=incarnation):
                attempt.queue_s, attempt.holding.computing = queue_s, True
                attempt.holding.held_by(worker, incarnation)
            case PrefillDone(prefill_s=prefill_s, ended_unix_s=ended_unix_s):
                order, now_s, attempt.holding.computing = attempt.order, self._worker.monotonic_s, False
                timed = PrefillTimed(now_s, order.request_id, order.attempt, attempt.queue_s, prefill_s, ended_unix_s)
                self._tell(timed)
            case PrefillFailed():
                attempt.prefill_failed.set(progress)

    # ---- one attempt

    async def _guarded(self, attempt: Attempt) -> None:
        try:
            await self._run(attempt)
        except Exception as error:
            self._tell(RequestBroken(self._worker.monotonic_s, attempt.order.request_id, fault_text(error)))

    async def _run(self, attempt: Attempt) -> None:
        order, worker = attempt.order, self._worker
        report: TransferReport | None = None
        sequence = KVSequence(len(order.token_ids))
        audited: Audited | None = None
        try:
            if not order.token_ids:
                self._verified(attempt, sequence)
                return
            from_token = self._install_kept(sequence, order)
            named = order.prefill_worker
            if named is not None and not await self._watch.is_there(named):
                named = None
            attempt.asked = True
            transfer = KVTransfer(
                transfer_id=order.transfer_id,
                attempt=order.attempt,
                bucket=HOME,
                nuid=attempt.nuid,
                prefill_tokens=len(order.token_ids),
                from_token=from_token,
                fingerprint=FINGERPRINT,
            )
            secret = self._seals.new_secret(order.prefill_site)
            audited = self.audits.draw_for(order.prefill_site, order.request_id, transfer, order.token_ids)
            install = teeing(sequence.install, audited)  # type: ignore[arg-type]
            attempt.receiver = receiver = Receiver(
                worker, self._world.store, transfer, install, timeout_s=order.timeout_s, idle_timeout_s=IDLE_TIMEOUT_S,
                secret=secret,
            )  # fmt: skip
            self.receivers[attempt.nuid] = receiver
            opening = worker.spawn(opened(receiver))
            try:
                sequence_number = await self._submit(order, transfer, named, secret)
            except (Exception, CancelledError):
                await self._open(opening)
                raise
            if (unopened := await self._open(opening)) is not None:
                raise unopened
            report = await self._await_kv(attempt, receiver, sequence_number)
            if report is not None:
                self._verified(attempt, sequence)
        except Exception as error:
            self._failed(attempt, failure_code(error), fault_text(error))
        finally:
            if audited is not None and report is not None:
                self.audits.begin(audited, "" if attempt.holding.holder is None else attempt.holding.holder.name)
            elif audited is not None:
                self.audits.drop(audited)
            if attempt.receiver is not None and worker.alive:
                await attempt.receiver.close()
                self.receivers.pop(attempt.nuid, None)
        if report is not None:
            self._keep(sequence, order)

    async def _open(self, opening: Task) -> TransferError | None:
        """Waits for the receiver. A wait that is cancelled ends the opening, as asyncio's does."""
        try:
            unopened: TransferError | None = await opening
            return unopened
        except CancelledError:
            opening.cancel()
            raise

    async def _submit(self, order: BeginAttempt, transfer: KVTransfer, named: str | None, secret: bytes | None) -> int:
        job = PrefillJob(
            request_id=order.request_id,
            model=MODEL,
            transfer=transfer,
            token_ids=pack_tokens(order.token_ids),
            reply_to=self._worker.name,
            decode_site=HOME,
            tenant=order.tenant,
            timeout_s=order.timeout_s,
            worker=named,
            admitted=order.admitted,
        )
        if secret is not None:
            job = self._seals.seal(order.prefill_site, job, secret)
        remote = order.prefill_site != HOME
        timeout_s = min(order.timeout_s, REMOTE_QUEUE_S) if remote else max(0.0, order.timeout_s - QUEUE_MARGIN_S)
        return await self._world.jobs[order.prefill_site].queued.submit(self._worker, job, timeout_s=timeout_s)

    async def _await_kv(self, attempt: Attempt, receiver: Receiver, sequence_number: int) -> TransferReport | None:
        """Returns None when the prefill failed, which the core has been told. Raises TransferError."""
        verified = self._worker.spawn(settled(receiver, attempt.order.timeout_s))
        lost = self._worker.spawn(self._watch.until_lost(attempt.holding, receiver, sequence_number))
        try:
            await self._worker.wait([verified, attempt.prefill_failed, lost])
            if verified.done:
                report, error = verified.result()
                if error is None:
                    return report  # type: ignore[no-any-return]
                if error.code is not FailureCode.ABORTED:
                    raise error
                if not await self._worker.wait([attempt.prefill_failed], ABORT_REASON_S):
                    raise error
            if attempt.prefill_failed.done:
                self._told(attempt, attempt.prefill_failed.result())
            else:
                self._lost(attempt, lost.result())
            return None
        finally:
            if self._worker.alive:
                verified.cancel()
                lost.cancel()

    def _told(self, attempt: Attempt, failure: PrefillFailed) -> None:
        """Follows Attempts._told."""
        reason = f"{failure.worker}: {failure.message}"
        if failure.code is FailureCode.WORKER_LOST and attempt.holding.computing:
            self._lost(attempt, Loss(failure.code, reason, attempt.holding.holder))
        else:
            self._failed(attempt, failure.code, reason, failure.retry_after_s)

    def _lost(self, attempt: Attempt, loss: Loss) -> None:
        """Follows Attempts._lost."""
        self._failed(attempt, loss.code, loss.reason, died=loss.died)
        if loss.died is not None:
            self._worker.spawn(self._look_back(loss.died))

    async def _look_back(self, holder: Holder) -> None:
        if await self._watch.until_back(holder):
            self._tell(WorkerAnswered(self._worker.monotonic_s, holder))

    def _verified(self, attempt: Attempt, sequence: KVSequence) -> None:
        if attempt.settled:
            return
        attempt.settled = True
        order, worker = attempt.order, self._worker
        self.sequences[order.request_id] = sequence
        self._tell(AttemptVerified(worker.monotonic_s, order.request_id, order.attempt, worker.unix_s, attempt.report))

    def _failed(
        self, attempt: Attempt, code: str, message: str, retry_after_s: float | None = None, died: Holder | None = None
    ) -> None:
        if attempt.settled:
            return
        attempt.settled = True
        order = attempt.order
        now_s = self._worker.monotonic_s
        self._world.failed_attempts.append((f"{order.transfer_id}.{order.attempt}", code))
        self._tell(AttemptFailed(now_s, order.request_id, order.attempt, code, message, died, retry_after_s))

    # ---- KV of earlier prompts

    def _install_kept(self, sequence: KVSequence, order: BeginAttempt) -> int:
        """Installs what this site or the one that is asked has made: another one's KV harms only what that one is given."""
        from_token, token_ids = 0, order.token_ids
        while from_token + CHUNK_TOKENS < len(token_ids):
            part, maker = self._kept.get(token_ids[: from_token + CHUNK_TOKENS], (None, ""))
            if part is None or maker not in (HOME, order.prefill_site):
                break
            sequence.install(part)
            from_token += CHUNK_TOKENS
        return from_token

    def _keep(self, sequence: KVSequence, order: BeginAttempt) -> None:
        full = next(layer for layer, spec in enumerate(LAYOUT.layers) if spec.kind is LayerKind.FULL)
        for end in range(CHUNK_TOKENS, len(order.token_ids) + 1, CHUNK_TOKENS):
            prefix = order.token_ids[:end]
            if prefix not in self._kept or order.prefill_site == HOME:
                self._kept[prefix] = sequence.read(LayerRange(full, end - CHUNK_TOKENS, end)), order.prefill_site
        while len(self._kept) > KEPT_PROMPTS:
            del self._kept[next(iter(self._kept))]
