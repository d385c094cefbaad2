"""Purges KV objects whose receiver has died, and keeps a site's bucket in being.

The broker itself knows what is alive, across all decode workers of a site, and any of them may sweep. An object is gone at most
object_consumer.INACTIVE_S + grace + interval after its receiver died, or grace + interval after a late sender's last frame.
"""

import asyncio
import contextlib
import time
from typing import Any

import msgspec

from prfaas.bus.bulk.bucket import (
    API_TIMEOUT_S,
    STREAM_NOT_FOUND,
    JetStreamError,
    api,
    chunk_subject,
    ensure_kv_bucket,
    stream_name,
)
from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.bulk.wire import LaneError
from prfaas.contracts.fields import SubjectToken
from prfaas.contracts.wire import BadMessageError, decode_json
from prfaas.telemetry.faults import FAULTS
from prfaas.telemetry.logs import get_logger
from prfaas.transfer.bucket_keeper_core import BucketKeeperCore, BucketState, Looked, Purged

_log = get_logger(__name__)
CLUSTER_INTERVAL_S = 1.0
CLUSTER_LOOK_S = 2.0
"""Silence after which a bucket's server counts as dead, twice in a row. Requests of the site wait meanwhile."""
_UNCONFIRMED_S = 0.5


class _Meta(msgspec.Struct):
    """Meta message of an object: all that is read of it."""

    nuid: SubjectToken


class KVBucketKeeper:
    """Runs in every decode worker, once per bucket. A memory store dies with its server: then the bucket is created again. In a
    cluster that is done on another server while the dead one is still away."""

    def __init__(
        self,
        lane: BulkLane,
        bucket: str,
        *,
        max_bytes: int,
        ttl_s: float,
        storage: str = "memory",
        interval_s: float = 5.0,
        grace_s: float = 10.0,
    ) -> None:
        self._lane = lane
        self._bucket = bucket
        self._limits: dict[str, Any] = {"max_bytes": max_bytes, "ttl_s": ttl_s, "storage": storage}
        self._clustered = lane.endpoint.replicas > 1
        self._interval_s = min(interval_s, CLUSTER_INTERVAL_S) if self._clustered else interval_s
        self._look_timeout_s = CLUSTER_LOOK_S if self._clustered else API_TIMEOUT_S
        self._core = BucketKeeperCore(grace_s)
        self._meta_chunks: dict[str, str] = {}
        self._wake = asyncio.Event()
        # As of the end of the last sweep: in the middle of one, what is about to be purged would pass for a leak.
        self.reclaimed_messages = 0
        self.leaked_bytes = 0
        self.stored_bytes = 0
        self.problem: str | None = None
        """Reason why the bucket cannot be used, for readiness; None while it can."""

    async def start(self) -> None:
        """Raises LaneError, TimeoutError."""
        await ensure_kv_bucket(self._lane, self._bucket, **self._limits)

    async def run(self) -> None:
        """Sweeps until cancelled, and creates the bucket again when the server has come back without it."""
        self._lane.add_listener(self)
        try:
            while True:
                try:
                    await self.sweep()
                    self.problem = None
                except (LaneError, TimeoutError) as error:
                    self.problem = f"the bucket {self._bucket} cannot be used: {str(error) or 'no answer in time'}"
                except Exception as error:
                    # What lies in the bucket was written by others. It must not end the process.
                    FAULTS.failed["bucket"] += 1
                    _log.error("sweep_failed", bucket=self._bucket, exc_info=error)
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s):
                        await self._wake.wait()
        finally:
            self._lane.remove_listener(self)

    async def sweep(self) -> int:
        """Purges what has been without a receiver for the grace. Returns how many messages. Raises LaneError, TimeoutError."""
        try:
            orders = self._core.handle(Looked(await self.look(), time.monotonic()))
        except JetStreamError as error:
            if error.code != STREAM_NOT_FOUND:
                raise
            await self.start()
            return 0
        except TimeoutError:
            if not self._clustered:
                raise
            await self._move()
            return 0
        before = self._core.reclaimed_messages
        for order in orders:
            answer = await api(self._lane, f"STREAM.PURGE.{stream_name(self._bucket)}", {"filter": order.subject})
            self._core.handle(Purged(order.subject, answer["purged"]))
        if orders:
            self._core.handle(Looked(await self.look(), time.monotonic()))
        self.reclaimed_messages = self._core.reclaimed_messages
        self.leaked_bytes, self.stored_bytes = self._core.leaked_bytes, self._core.stored_bytes
        return self.reclaimed_messages - before

    async def look(self) -> BucketState:
        """Returns what is stored, and who reads it. Raises LaneError, TimeoutError."""
        stream = stream_name(self._bucket)
        info = await api(self._lane, f"STREAM.INFO.{stream}", {"subjects_filter": ">"}, timeout_s=self._look_timeout_s)
        counts: dict[str, int] = info["state"].get("subjects") or {}
        prefix = f"$O.{self._bucket}.M."
        frames = {subject: count for subject, count in counts.items() if not subject.startswith(prefix)}
        metas = {subject: await self._chunks_of(subject) for subject in counts if subject.startswith(prefix)}
        self._meta_chunks = metas
        state = info["state"]
        return BucketState(frames, metas, await self._receivers(stream), state["messages"], state["bytes"])

    async def _move(self) -> None:
        """Makes the bucket on another server of the cluster. No server answers for one whose own is dead.

        Raises LaneError, TimeoutError."""
        stream = stream_name(self._bucket)
        try:
            await api(self._lane, f"STREAM.INFO.{stream}", timeout_s=self._look_timeout_s)
            return  # it was slow, or another decode worker has moved it meanwhile
        except TimeoutError:
            pass
        with contextlib.suppress(TimeoutError):  # the dead server cannot confirm it, the others have taken note
            await api(self._lane, f"STREAM.DELETE.{stream}", timeout_s=_UNCONFIRMED_S)
        await self.start()
        _log.warning("bucket_moved", bucket=self._bucket, reason="its server does not answer")

    async def _chunks_of(self, meta: str) -> str:
        """Chunk subject that an object's meta message points to; empty when the message has gone."""
        if meta in self._meta_chunks:
            return self._meta_chunks[meta]
        message = await self._lane.request(f"$JS.API.DIRECT.GET.{stream_name(self._bucket)}.{meta}", timeout_s=5.0)
        if message.status:
            return ""
        try:
            return chunk_subject(self._bucket, decode_json(message.payload, _Meta).nuid)
        except BadMessageError:
            # Any client that may write into the bucket may write this. It belongs to no receiver, so it is purged.
            FAULTS.undecodable["meta"] += 1
            return ""

    async def _receivers(self, stream: str) -> frozenset[str]:
        found: set[str] = set()
        offset, total = 0, 1
        while offset < total:
            page = await api(self._lane, f"CONSUMER.LIST.{stream}", {"offset": offset})
            consumers = page["consumers"] or []
            found.update(consumer["config"].get("filter_subject", "") for consumer in consumers)
            total = page["total"] if consumers else 0
            offset += len(consumers)
        return frozenset(found)

    # What the lane calls.

    def connected(self) -> None:
        self._wake.set()

    def disconnected(self) -> None:
        pass

    def writable(self) -> None:
        pass

    def server_error(self, text: str) -> None:
        pass
