"""Fetches the prefix that a job names, or gives up: then the job is computed as without."""

import asyncio
import secrets
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Final, NamedTuple, TypeVar

from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusTimeoutError
from prfaas.contracts import subjects
from prfaas.contracts.kv import KVTransfer, PrefixSource
from prfaas.contracts.to_prefill import PrefixRefused, SendPrefix, SendPrefixReply
from prfaas.engine.protocol import EngineDescription
from prfaas.kvcache.blocks import block_hashes, block_proofs, pack_hashes
from prfaas.kvcache.prefix_cache import PrefixCache
from prfaas.kvcache.pulled_prefix import PulledPrefix
from prfaas.process.tasks import Tasks
from prfaas.sealing.pull_seal import PullSeals
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics.pulls import PullMetrics
from prfaas.transfer.receiver import KVReceiver
from prfaas.worker.faults import fault_text
from prfaas.worker.identity import Identity
from prfaas_prefill_worker.events import Run
from prfaas_prefill_worker.pool_calls import PoolCalls
from prfaas_prefill_worker.pulls.pull_clock import BEGIN_S, PullClock

LOOK_EVERY_S: Final = 0.02
POOL_TIMEOUT_S: Final = 5.0
"""Time for the pool to answer: no job computes meanwhile, but prefixes may be read for other workers."""
SLACK_S: Final = 1.0
"""Time by which the transfer outlives the clock, which is to say why a pull ended."""
NEWEST: Final = 0.3
"""Weight of the newest pull in the rate that is announced."""

log = get_logger(__name__)
_R = TypeVar("_R")


class Pulled(NamedTuple):
    """Result of a pull; nothing where it was given up."""

    tokens: int = 0
    """Tokens by which the cached prefix grew."""
    saved_s: float = 0.0
    """Predicted time to compute them, less the time that the pull took."""


class _Late(Exception):
    """Raised with the reason why a pull is given up."""


class _Refused(Exception):
    """Raised with the holder's reason."""


class Puller:
    def __init__(
        self,
        identity: Identity,
        description: EngineDescription,
        cache: PrefixCache,
        calls: PoolCalls,
        bus: ControlBus,
        lane: BulkLane,
        seals: PullSeals,
        tasks: Tasks,
        metrics: PullMetrics,
        *,
        sites: Collection[str],
        bucket_bytes: int,
    ) -> None:
        """`sites`: those whose workers may be asked. `bucket_bytes`: room for one prefix on its way."""
        self._identity = identity
        self._description = description
        self._cache = cache
        self._calls = calls
        self._bus = bus
        self._lane = lane
        self._seals = seals
        self._tasks = tasks
        self._metrics = metrics
        self._sites = sites
        self._bucket_bytes = bucket_bytes
        self.bytes_per_s = 0.0
        """Rate of the last pulls within the site, from the question to the whole verified; 0 before the first."""

    async def pull(self, run: Run, cancelled: Callable[[], bool]) -> Pulled:
        """Returns what came; nothing where it failed, whatever the reason."""
        source = run.job.pull
        if source is None:
            return Pulled()
        started_at = time.monotonic()
        site, result, pulled, size_bytes = source.site, "skipped", Pulled(), 0
        try:
            if self._may_pull(source, run):
                result, pulled, size_bytes = await self._pull(source, run, cancelled)
        except _Late as late:
            result = "late"
            self._note(source, run, result, str(late))
        except _Refused as refused:
            result = "refused"
            self._note(source, run, result, str(refused))
        except Exception as error:  # whatever it is: the prefix can be computed
            result = "failed"
            self._note(source, run, result, fault_text(error))
        lost_s = -pulled.saved_s if pulled.tokens else time.monotonic() - started_at
        # A name in a job is no label: only sites that may be asked are.
        self._metrics.pulled(site if site in self._sites else "", result, size_bytes, lost_s)
        return pulled

    def _may_pull(self, source: PrefixSource, run: Run) -> bool:
        block_tokens = self._description.chunk_tokens
        own = (source.site, source.worker) == (self._identity.site, self._identity.worker)
        fits = 0 < source.tokens <= len(run.token_ids) and not source.tokens % block_tokens
        return fits and not own and source.site in self._sites and self._seals.may_ask(source.site)

    async def _pull(self, source: PrefixSource, run: Run, cancelled: Callable[[], bool]) -> tuple[str, Pulled, int]:
        """Returns the result, what it brought, and bytes. Raises _Late, _Refused, BusError, TransferError, ..."""
        layout, block_tokens = self._description.layout, self._description.chunk_tokens
        # What is here, and what it would take to compute the rest.
        have_tokens, compute_s = await self._call(partial(self._look, run, source.tokens))
        if have_tokens >= source.tokens:
            return "held", Pulled(), 0
        limit_s = min(source.timeout_s, compute_s, run.timeout_s / 2)
        prefix = PulledPrefix(layout, block_tokens, have_tokens, source.tokens)
        size_bytes = prefix.size_bytes
        if size_bytes > min(self._bucket_bytes, self._cache.capacity_bytes):
            return "skipped", Pulled(), 0
        # Ask, with the reader in place.
        transfer = KVTransfer(
            transfer_id=f"pull-{secrets.token_hex(8)}",
            attempt=1,
            bucket=subjects.pull_bucket(self._identity.site, source.site),
            nuid=secrets.token_hex(11),
            prefill_tokens=source.tokens,
            from_token=have_tokens,
            fingerprint=self._description.fingerprint,
        )
        token_ids, scope = run.token_ids[: source.tokens], run.cache_scope
        ask, secret = self._seals.seal(
            source.site,
            SendPrefix(
                transfer=transfer,
                asking_site=self._identity.site,
                hashes=pack_hashes(block_hashes(token_ids, block_tokens, self._cache.hash_key, scope)),
                proofs=b"".join(block_proofs(token_ids, block_tokens, self._cache.hash_key, scope)),
                timeout_s=limit_s,
            ),
        )
        asked_at = time.monotonic()
        receiver = KVReceiver(
            self._lane, transfer, layout, prefix.install, timeout_s=limit_s + SLACK_S, idle_timeout_s=None, secret=secret
        )
        try:
            opening = asyncio.ensure_future(receiver.open())
            try:
                subject = subjects.send_prefix(source.site, source.worker, self._identity.site)
                answer: SendPrefixReply = await self._bus.request(subject, ask, SendPrefixReply, min(BEGIN_S, limit_s))
            except BusTimeoutError as error:
                raise _Late(str(error)) from error
            finally:
                await opening
            if isinstance(answer, PrefixRefused):
                raise _Refused(answer.reason)
            await self._verified(receiver, PullClock(asked_at, limit_s, size_bytes), cancelled)
        finally:
            # A round trip or two, for which the job need not wait.
            self._tasks.spawn(f"close {transfer.transfer_id}", self._close(receiver))
        took_s = time.monotonic() - asked_at
        if source.site == self._identity.site:
            rate = size_bytes / took_s
            self.bytes_per_s += (rate - self.bytes_per_s) * (NEWEST if self.bytes_per_s else 1.0)
        # Only what is whole and verified goes into the pool.
        maker = "" if source.site == self._identity.site else source.site
        cached_tokens = await self._call(partial(prefix.store, self._cache, run.token_ids, scope, maker))
        grown = max(0, cached_tokens - have_tokens)
        return "done", Pulled(grown, compute_s - took_s if grown else 0.0), size_bytes

    def _look(self, run: Run, tokens: int) -> tuple[int, float]:
        with self._cache.pin(run.token_ids[:tokens], scope=run.cache_scope) as prefix:
            have = prefix.cached_tokens
        return have, self._cache.compute_s(have, tokens) if have < tokens else 0.0

    async def _verified(self, receiver: KVReceiver, clock: PullClock, cancelled: Callable[[], bool]) -> None:
        """Raises _Late, and what the transfer raised."""
        verified = asyncio.ensure_future(receiver.verified(clock.limit_s + SLACK_S))
        try:
            while True:
                await asyncio.wait([verified], timeout=LOOK_EVERY_S)
                if verified.done():
                    verified.result()
                    return
                report = receiver.report()
                if cancelled():
                    raise _Late("the job is wanted no more")
                if (reason := clock.late(time.monotonic(), report.frames, report.bytes)) is not None:
                    raise _Late(reason)
        finally:
            verified.cancel()

    async def _call(self, call: Callable[[], "_R"]) -> "_R":
        async with asyncio.timeout(POOL_TIMEOUT_S):
            return await asyncio.wrap_future(self._calls.submit(call))

    async def _close(self, receiver: KVReceiver) -> None:
        try:
            await receiver.close()
        except Exception as error:  # the task's own end would be the process's
            log.warning("pull_not_closed", reason=fault_text(error))

    def _note(self, source: PrefixSource, run: Run, result: str, reason: str) -> None:
        log.info(
            "pull_given_up",
            request_id=run.job.request_id,
            result=result,
            from_site=source.site,
            worker=source.worker,
            tokens=source.tokens,
            reason=reason,
        )
