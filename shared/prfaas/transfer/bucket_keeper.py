"""Nothing in a site's KV bucket outlives its request: whose reader is gone is purged.

A live reader has a consumer on its object's subject, and the server drops the consumer of a dead one after CONSUMER_INACTIVE_S.
So the broker itself knows what is alive, across all decode workers of a site, and any of them may sweep. An object is gone at
most CONSUMER_INACTIVE_S + grace + interval after its reader died, or grace + interval after a late writer's last frame.
"""

import asyncio
import contextlib
import time
from typing import Any, NamedTuple

import msgspec

from prfaas.bus.bulk.bucket import STREAM_NOT_FOUND, JetStreamError, api, ensure_kv_bucket, stream_name
from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.bulk.wire import LaneError
from prfaas.contracts import subjects
from prfaas.contracts.fields import SubjectToken
from prfaas.contracts.wire import BadMessageError, decode_json
from prfaas.telemetry.faults import FAULTS
from prfaas.telemetry.logs import get_logger

_log = get_logger(__name__)


class BucketState(NamedTuple):
    """What one look at the bucket shows. `frames` and `readers` are by chunk subject, `metas` maps meta to chunk subject."""

    frames: dict[str, int]
    metas: dict[str, str]
    readers: frozenset[str]
    messages: int
    bytes: int
    now: float

    def orphans(self) -> set[str]:
        """Subjects that hold messages and that nobody reads."""
        return {subject for subject in self.frames if subject not in self.readers} | {
            meta for meta, chunks in self.metas.items() if chunks not in self.readers
        }


class _Meta(msgspec.Struct):
    """Meta message of an object: all that is read of it."""

    nuid: SubjectToken


class SweepCore:
    """Pure: what to purge, from looks at the bucket. An orphan gets `grace_s`: a reader may be between two consumers."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._orphan_since: dict[str, float] = {}

    def handle(self, state: BucketState) -> list[str]:
        """Subjects to purge now."""
        self._orphan_since = {subject: self._orphan_since.get(subject, state.now) for subject in state.orphans()}
        return sorted(subject for subject, since in self._orphan_since.items() if state.now - since >= self._grace_s)

    def validate(self) -> None:
        assert all(since >= 0 for since in self._orphan_since.values())


class KVBucketKeeper:
    """Keeps the bucket of a site in being (a memory store dies with its server) and clean. One in every decode worker."""

    def __init__(
        self,
        lane: BulkLane,
        site: str,
        *,
        max_bytes: int,
        ttl_s: float,
        storage: str = "memory",
        interval_s: float = 5.0,
        grace_s: float = 10.0,
    ) -> None:
        self._lane = lane
        self._site = site
        self._bucket = subjects.kv_bucket(site)
        self._limits: dict[str, Any] = {"max_bytes": max_bytes, "ttl_s": ttl_s, "storage": storage}
        self._interval_s = interval_s
        self._grace_s = grace_s
        self._core = SweepCore(grace_s)
        self._meta_chunks: dict[str, str] = {}
        self._wake = asyncio.Event()
        self.reclaimed_messages = 0
        """Found without a reader and purged, since the start: what crashes have left behind."""
        self.leaked_bytes = 0
        """Of objects past their grace that are still there, at the last look (an orphan's share of the bytes, by messages)."""
        self.stored_bytes = 0
        self.problem: str | None = None
        """Why the bucket cannot be used, for readiness; None while it can."""

    async def start(self) -> None:
        """Raises LaneError, TimeoutError."""
        await ensure_kv_bucket(self._lane, self._site, **self._limits)

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
        """Purges what has been without a reader for the grace. Returns how many messages. Raises LaneError, TimeoutError."""
        try:
            state = await self.look()
        except JetStreamError as error:
            if error.code != STREAM_NOT_FOUND:
                raise
            await self.start()
            return 0
        purged = 0
        for subject in self._core.handle(state):
            answer = await api(self._lane, f"STREAM.PURGE.{stream_name(self._bucket)}", {"filter": subject})
            purged += answer["purged"]
        self.reclaimed_messages += purged
        if purged:
            state = await self.look()
        overdue = self._core.handle(state)
        messages = sum(state.frames.get(subject, 1) for subject in overdue)
        self.leaked_bytes = state.bytes * messages // max(state.messages, 1)
        self.stored_bytes = state.bytes
        return purged

    async def look(self) -> BucketState:
        """Raises LaneError, TimeoutError."""
        stream = stream_name(self._bucket)
        info = await api(self._lane, f"STREAM.INFO.{stream}", {"subjects_filter": ">"})
        counts: dict[str, int] = info["state"].get("subjects") or {}
        prefix = f"$O.{self._bucket}.M."
        frames = {subject: count for subject, count in counts.items() if not subject.startswith(prefix)}
        metas = {subject: await self._chunks_of(subject) for subject in counts if subject.startswith(prefix)}
        self._meta_chunks = metas
        state = info["state"]
        return BucketState(frames, metas, await self._readers(stream), state["messages"], state["bytes"], time.monotonic())

    async def _chunks_of(self, meta: str) -> str:
        """The chunk subject that an object's meta message points to."""
        if meta in self._meta_chunks:
            return self._meta_chunks[meta]
        message = await self._lane.request(f"$JS.API.DIRECT.GET.{stream_name(self._bucket)}.{meta}", deadline_s=5.0)
        if message.status:
            return ""
        try:
            nuid = decode_json(message.payload, _Meta).nuid
        except BadMessageError:
            # Anybody who may write into the bucket may write this. It belongs to no reader, so it is purged.
            FAULTS.undecodable["meta"] += 1
            return ""
        return f"$O.{self._bucket}.C.{nuid}"

    async def _readers(self, stream: str) -> frozenset[str]:
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
