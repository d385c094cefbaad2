"""Sends cached prefixes to the workers that ask for them: between the chunks of jobs, and on the link behind their KV."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from prfaas.bus.bulk.lane import BulkLane
from prfaas.contracts.to_prefill import PrefixComing, PrefixRefused, SendPrefix, SendPrefixReply
from prfaas.contracts.wire import BadMessageError
from prfaas.engine.protocol import EngineDescription
from prfaas.kvcache.held_prefix import HeldPrefix
from prfaas.kvcache.prefix_cache import PrefixCache
from prfaas.process.tasks import Tasks
from prfaas.sealing.pull_seal import PullSeals
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics.pulls import PullMetrics
from prfaas.transfer.send_options import SendOptions
from prfaas.transfer.sender import KVSender
from prfaas.worker.faults import fault_text
from prfaas_prefill_worker.links import Links
from prfaas_prefill_worker.pool_calls import PoolCalls
from prfaas_prefill_worker.pulls.pull_clock import BEGIN_S
from prfaas_prefill_worker.pulls.request import Asked, check_request

MAX_SENDING = 2
"""Prefixes that are sent at once; more are refused, and computed by who asked."""
BUFFER_BYTES = 16 << 20
MAX_SEND_S = 60.0
DISK_READ_TIMEOUT_S = 5.0

log = get_logger(__name__)


class PrefixHolder:
    def __init__(
        self,
        site: str,
        description: EngineDescription,
        cache: PrefixCache,
        calls: PoolCalls,
        lane: BulkLane,
        links: Links,
        seals: PullSeals,
        tasks: Tasks,
        metrics: PullMetrics,
    ) -> None:
        self._site = site
        self._description = description
        self._cache = cache
        self._calls = calls
        self._lane = lane
        self._links = links
        self._seals = seals
        self._tasks = tasks
        self._metrics = metrics
        self._sending = 0
        self._thread = ThreadPoolExecutor(MAX_SENDING, thread_name_prefix="send prefix")

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def answer(self, asking_site: str, ask: SendPrefix) -> SendPrefixReply:
        """`asking_site`: from the subject."""
        try:
            asked = check_request(ask, asking_site, self._site, self._description)
            secret = self._seals.open(ask)
        except BadMessageError as error:
            return self._refused("bad", str(error))
        if self._sending >= MAX_SENDING:
            return self._refused("busy", f"{MAX_SENDING} prefixes are being sent already")
        self._sending += 1
        held: HeldPrefix | None = None
        try:
            found = self._calls.submit(partial(HeldPrefix.find, self._cache, asked.hashes, asked.proofs, asked.first_block))
            done, _ = await asyncio.wait([waiting := asyncio.wrap_future(found)], timeout=BEGIN_S)
            if not done and found.cancel():
                waiting.cancel()
                return self._refused("busy", "the engine computes a chunk")
            held = await waiting
        except Exception as error:
            log.error("prefix_not_found", exc_info=error)
            return self._refused("failed", fault_text(error))
        finally:
            if held is None:
                self._sending -= 1
        if held is None:
            return self._refused("not_held", "the prefix is not held here")
        self._tasks.spawn(f"send prefix {ask.transfer.transfer_id}", self._guarded(asking_site, ask, asked, held, secret))
        return PrefixComing()

    async def _guarded(self, asking_site: str, ask: SendPrefix, asked: Asked, held: HeldPrefix, secret: bytes | None) -> None:
        """The task's own error would end the process. Whatever becomes of the transfer, its blocks are in use no more."""
        try:
            sent_bytes = await self._send(asking_site, ask, asked, held, secret)
            self._metrics.sent("done", asking_site, sent_bytes)
        except Exception as error:
            self._metrics.sent("failed", asking_site)
            log.info("prefix_not_sent", to_site=asking_site, transfer=ask.transfer.transfer_id, reason=fault_text(error))
        finally:
            self._sending -= 1
            self._calls.submit(held.release)

    async def _send(self, asking_site: str, ask: SendPrefix, asked: Asked, held: HeldPrefix, secret: bytes | None) -> int:
        """Returns the bytes sent. Raises TransferError, EOFError."""
        options = SendOptions(
            timeout_s=min(ask.timeout_s, MAX_SEND_S),
            background=True,
            idle_timeout_s=min(ask.timeout_s, MAX_SEND_S),
            buffer_bytes=BUFFER_BYTES,
            object_digest=False,
            secret=secret,
        )
        sender = KVSender(self._lane, ask.transfer, self._description.layout, self._links.to(asking_site), options).open()
        put = asyncio.get_running_loop().run_in_executor(self._thread, self._put, sender, asked, held)
        try:
            await put
        except BaseException as error:
            await sender.abort(fault_text(error) if isinstance(error, Exception) else "the worker stops")
            raise
        return (await sender.close()).bytes

    def _put(self, sender: KVSender, asked: Asked, held: HeldPrefix) -> None:
        """Reads what is on disk on the engine's thread, block by block, so that jobs come between."""
        until_at = time.monotonic() + MAX_SEND_S
        for index in range(asked.first_block, len(asked.hashes)):
            part = self._calls.submit(partial(held.block, index)).result(DISK_READ_TIMEOUT_S)
            if part is None or time.monotonic() > until_at:
                raise EOFError("a block could not be read back")
            for piece in part.pieces:
                sender.put(piece)
        checkpoint = self._calls.submit(held.checkpoint).result(DISK_READ_TIMEOUT_S)
        if checkpoint is None:
            raise EOFError("the checkpoint could not be read back")
        for piece in checkpoint.pieces:
            sender.put(piece)
        sender.finish(cached_tokens=len(asked.hashes) * self._description.chunk_tokens)

    def _refused(self, result: str, reason: str) -> PrefixRefused:
        self._metrics.sent(result, "")
        return PrefixRefused(reason=reason[:512])
