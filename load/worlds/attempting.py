"""Attempts of a decode worker to get KV, in the order of its shell: reserve, read, then the job, then the first of three ends."""

from collections.abc import Callable

from load.worlds.clockwork import Future, Process, Task
from load.worlds.model import CHUNK_TOKENS, FINGERPRINT, LAYOUT, MODEL, KVSequence
from load.worlds.plan import HOME, dispatcher_of
from load.worlds.receiving import Receiver
from load.worlds.seals import home_seals
from load.worlds.surroundings import Surroundings
from prfaas.bus.errors import BusError, NoRespondersError
from prfaas.bus.job_streams import ACK_WAIT_S
from prfaas.bus.jobs import ABSENT_BEHIND_A_LINK_S, ABSENT_S
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVTransfer, TransferReport
from prfaas.contracts.to_decode import PrefillDispatched, PrefillDone, PrefillFailed, PrefillProgress, PrefillStarted
from prfaas.contracts.to_prefill import CancelPrefill, PrefillJob
from prfaas.contracts.wire import pack_tokens
from prfaas.kvcache.layout import KVPiece, LayerKind, LayerRange
from prfaas.transfer.errors import TransferError
from prfaas.worker.faults import failure_code, fault_text
from prfaas_decode_worker.attempt import ABORT_REASON_S
from prfaas_decode_worker.events import (
    AttemptFailed,
    AttemptVerified,
    BeginAttempt,
    EndAttempt,
    Event,
    PrefillTimed,
    RequestBroken,
)
from prfaas_decode_worker.prefill_jobs import QUEUE_MARGIN_S, REMOTE_QUEUE_S

ALIVE_EVERY_S = 0.5
ALIVE_TIMEOUT_S = 2.0
IDLE_TIMEOUT_S = 10.0
KEPT_PROMPTS = 16


class Attempt:
    """State of one running attempt, which progress messages and cancellation must reach."""

    def __init__(self, order: BeginAttempt, nuid: str) -> None:
        self.order = order
        self.nuid = nuid
        self.receiver: Receiver | None = None
        self.prefill_failed: Future[PrefillFailed] = Future()
        self.holder: Future[str] = Future()
        """The prefill worker that has its job; the first to be heard of is the only one."""
        self.begun = False
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
        self._seals = home_seals(world.plan.sealed)
        self.running: dict[str, tuple[Attempt, Task]] = {}
        """Current attempt and its task, by request."""
        self.sequences: dict[str, KVSequence] = {}
        self.receivers: dict[str, Receiver] = {}
        """Open receivers by the name of their object."""
        self._kept: dict[tuple[int, ...], KVPiece] = {}
        """Full layers' KV of verified prompts, by the prompt up to each block's end."""

    def begin(self, order: BeginAttempt) -> None:
        attempt = Attempt(order, f"{self._worker.name}x{self._incarnation}x{self._world.next_number()}")
        self.running[order.request_id] = attempt, self._worker.spawn(self._guarded(attempt))

    def end(self, order: EndAttempt) -> None:
        attempt, task = self.running.pop(order.request_id)
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
        self.running.pop(request_id, None)

    def hear(self, prefill_site: str, progress: PrefillProgress) -> None:
        found = self.running.get(progress.transfer_id)
        if found is None or found[0].order.attempt != progress.attempt:
            return
        attempt = found[0]
        if attempt.order.prefill_site != prefill_site or attempt.nuid != progress.nuid:
            return
        match progress:
            case PrefillDispatched(worker=worker):
                attempt.holder.set(worker)
            case PrefillStarted(queue_s=queue_s, worker=worker):
                attempt.queue_s, attempt.begun = queue_s, True
                attempt.holder.set(worker)
            case PrefillDone(prefill_s=prefill_s, ended_unix_s=ended_unix_s):
                order, now_s = attempt.order, self._worker.monotonic_s
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
        try:
            if not order.token_ids:
                self._verified(attempt, sequence)
                return
            from_token = self._install_kept(sequence, order.token_ids)
            named = order.prefill_worker
            if named is not None and not await self._is_there(named):
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
            attempt.receiver = receiver = Receiver(
                worker, self._world.store, transfer, sequence.install, timeout_s=order.timeout_s, idle_timeout_s=IDLE_TIMEOUT_S,
                secret=secret,
            )  # fmt: skip
            self.receivers[attempt.nuid] = receiver
            await receiver.open()
            await self._submit(order, transfer, named, secret)
            report = await self._await_kv(attempt, receiver)
            if report is not None:
                self._verified(attempt, sequence)
        except Exception as error:
            self._failed(attempt, failure_code(error), fault_text(error))
        finally:
            if attempt.receiver is not None and worker.alive:
                await attempt.receiver.close()
                self.receivers.pop(attempt.nuid, None)
        if report is not None:
            self._keep(sequence, order.token_ids)

    async def _submit(self, order: BeginAttempt, transfer: KVTransfer, named: str | None, secret: bytes | None) -> None:
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
        await self._world.jobs[order.prefill_site].queued.submit(self._worker, job, timeout_s=timeout_s)

    async def _await_kv(self, attempt: Attempt, receiver: Receiver) -> TransferReport | None:
        """Returns None when the prefill failed, which the core has been told. Raises TransferError."""
        verified = self._worker.spawn(_settled(receiver, attempt.order.timeout_s))
        gone = self._worker.spawn(self._until_gone(attempt))
        try:
            await self._worker.wait([verified, attempt.prefill_failed, gone])
            if verified.done:
                report, error = verified.result()
                if error is None:
                    return report  # type: ignore[no-any-return]
                if error.code is not FailureCode.ABORTED:
                    raise error
                if not await self._worker.wait([attempt.prefill_failed], ABORT_REASON_S):
                    raise error
            if attempt.prefill_failed.done:
                failure = attempt.prefill_failed.result()
                self._failed(attempt, failure.code, f"{failure.worker}: {failure.message}", failure.retry_after_s)
            else:
                self._failed(attempt, FailureCode.WORKER_LOST, gone.result())
            return None
        finally:
            if self._worker.alive:
                verified.cancel()
                gone.cancel()

    async def _is_there(self, name: str) -> bool:
        try:
            await self._world.network.ask(self._worker, name, "alive_asked", timeout_s=ALIVE_TIMEOUT_S)
        except BusError:
            return False
        return True

    async def _until_gone(self, attempt: Attempt) -> str:
        """Follows JobQueue.until_gone."""
        watched = await attempt.holder
        absent_s = ABSENT_S if attempt.order.prefill_site == HOME else ABSENT_BEHIND_A_LINK_S
        heard_at = self._worker.monotonic_s
        absent_since: float | None = None
        while True:
            await self._worker.sleep(ALIVE_EVERY_S)
            asked_at = self._worker.monotonic_s
            try:
                await self._world.network.ask(self._worker, watched, "alive_asked", timeout_s=ALIVE_TIMEOUT_S)
                heard_at, absent_since = self._worker.monotonic_s, None
            except NoRespondersError:
                absent_since = asked_at if absent_since is None else absent_since
                if self._worker.monotonic_s - absent_since >= absent_s:
                    return f"prefill worker {watched!r} has no connection any more"
            except BusError:
                absent_since = None
            if (silent_s := self._worker.monotonic_s - heard_at) >= ACK_WAIT_S:
                return f"prefill worker {watched!r} has not answered for {silent_s:.1f} s"

    def _verified(self, attempt: Attempt, sequence: KVSequence) -> None:
        if attempt.settled:
            return
        attempt.settled = True
        order, worker = attempt.order, self._worker
        self.sequences[order.request_id] = sequence
        self._tell(AttemptVerified(worker.monotonic_s, order.request_id, order.attempt, worker.unix_s, attempt.report))

    def _failed(self, attempt: Attempt, code: str, message: str, retry_after_s: float | None = None) -> None:
        if attempt.settled:
            return
        attempt.settled = True
        order = attempt.order
        now_s = self._worker.monotonic_s
        self._world.failed_attempts.append((f"{order.transfer_id}.{order.attempt}", code))
        self._tell(AttemptFailed(now_s, order.request_id, order.attempt, code, message, attempt.begun, retry_after_s))

    # ---- KV of earlier prompts

    def _install_kept(self, sequence: KVSequence, token_ids: tuple[int, ...]) -> int:
        from_token = 0
        while from_token + CHUNK_TOKENS < len(token_ids):
            part = self._kept.get(token_ids[: from_token + CHUNK_TOKENS])
            if part is None:
                break
            sequence.install(part)
            from_token += CHUNK_TOKENS
        return from_token

    def _keep(self, sequence: KVSequence, token_ids: tuple[int, ...]) -> None:
        full = next(layer for layer, spec in enumerate(LAYOUT.layers) if spec.kind is LayerKind.FULL)
        for end in range(CHUNK_TOKENS, len(token_ids) + 1, CHUNK_TOKENS):
            self._kept.setdefault(token_ids[:end], sequence.read(LayerRange(full, end - CHUNK_TOKENS, end)))
        while len(self._kept) > KEPT_PROMPTS:
            del self._kept[next(iter(self._kept))]


async def _settled(receiver: Receiver, timeout_s: float) -> tuple[TransferReport | None, TransferError | None]:
    """Turns an error into a result: a task whose error is not looked at would pass for a fault."""
    try:
        return await receiver.verified(timeout_s), None
    except TransferError as error:
        return None, error
