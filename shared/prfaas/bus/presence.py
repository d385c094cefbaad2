"""Who is there: entries that their owners put into a site's KV bucket again and again, and that vanish when they stop.

The scheduler hears every put as a message on the bucket's subject, which survives restarts of the server without any state; the
bucket itself is for whoever comes later, and for operators to look at.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from nats.js.kv import KeyValue

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError
from prfaas.bus.jetstream import call, ensure_stream, publish_acknowledged
from prfaas.contracts import subjects
from prfaas.contracts.wire import BadMessageError, decode, encode
from prfaas.telemetry.logs import get_logger

if TYPE_CHECKING:
    from typing_extensions import TypeForm

_log = get_logger(__name__)
INTERVAL_S = 1.0
TTL_S = 4.0
"""Three beats may be lost or late."""
_ENSURE_EVERY_S = 5.0
_LOOK_EVERY_S = 0.1
_SNAPSHOT_DEADLINE_S = 5.0
_MAX_BUCKET_BYTES = 16 << 20


class Entry(Protocol):
    @property
    def key(self) -> str: ...


Value = TypeVar("Value")


async def put_entry(bus: ControlBus, site: str, bucket: str, entry: Entry, timeout_s: float = INTERVAL_S) -> None:
    """Puts an entry into a bucket of a site, the own one or one that is joined to it. Raises BusError."""
    await publish_acknowledged(bus, _put_subject(site, bucket, entry.key), encode(entry), timeout_s)


def _put_subject(site: str, bucket: str, key: str) -> str:
    # Names the domain: its server maps this to `$KV.<bucket>.<key>`, which servers of other domains let nobody send there.
    return f"$JS.{site}.API.$KV.{bucket}.{key}"


class Announcer:
    """Puts this process's entry into the bucket of every pd site that may place work on it, once per interval."""

    def __init__(
        self,
        bus: ControlBus,
        sites: Sequence[str],
        make_entry: Callable[[], Entry],
        interval_s: float = INTERVAL_S,
        bucket: Callable[[str], str] = subjects.workers_bucket,
    ) -> None:
        self._bus = bus
        self._sites = tuple(sites)
        self._make_entry = make_entry
        self._interval_s = interval_s
        self._bucket = bucket
        self._missed: dict[str, int] = {}
        self._withdrawn = False

    @property
    def problem(self) -> str | None:
        """Why no site hears of this process, for readiness; None while one does."""
        if not self._missed or len(self._missed) < len(self._sites):
            return None
        return f"this process cannot be announced to {', '.join(self._missed)}"

    async def run(self) -> None:
        """Until withdrawn or cancelled. A put that fails is logged, once until it works again, and tried at the next beat."""
        while not self._withdrawn:
            started_s = time.monotonic()
            await self.beat()
            await asyncio.sleep(max(0.0, started_s + self._interval_s - time.monotonic()))

    async def beat(self) -> None:
        """One put to each site now, side by side, for a change that should not wait for the next beat."""
        entry = self._make_entry()
        await asyncio.gather(*(self._put(site, entry) for site in self._sites))

    async def withdraw(self) -> None:
        """Says at once that this process is gone, instead of by its silence. It is not announced again."""
        self._withdrawn = True
        key = self._make_entry().key
        for site in self._sites:
            subject = _put_subject(site, self._bucket(site), key)
            try:
                await publish_acknowledged(self._bus, subject, b"", self._interval_s, {"KV-Operation": "DEL"})
            except BusError as error:
                _log.warning("withdrawal_failed", to_site=site, key=key, reason=str(error))

    async def _put(self, site: str, entry: Entry) -> None:
        try:
            await put_entry(self._bus, site, self._bucket(site), entry, self._interval_s)
        except BusError as error:
            self._missed[site] = self._missed.get(site, 0) + 1
            if self._missed[site] == 1:
                _log.warning("announcement_failed", to_site=site, key=entry.key, reason=str(error))
        else:
            if missed := self._missed.pop(site, 0):
                _log.info("announcement_works_again", to_site=site, key=entry.key, missed=missed)


async def ensure_bucket(bus: ControlBus, bucket: str, ttl_s: float = TTL_S) -> None:
    """Makes a KV bucket in the own site. Raises StreamError, BusTimeoutError, NotConnectedError."""
    await ensure_stream(
        bus,
        StreamConfig(  # as KV clients lay a bucket out
            name=f"KV_{bucket}",
            subjects=[f"$KV.{bucket}.>"],
            max_msgs_per_subject=1,
            max_age=ttl_s,
            max_bytes=_MAX_BUCKET_BYTES,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            allow_rollup_hdrs=True,
            deny_delete=True,
            allow_direct=True,
            duplicate_window=min(ttl_s, 120.0),
        ),
    )


class BucketStatus:
    """Whether the owner of a bucket can use it."""

    def __init__(self, bucket: str) -> None:
        self.problem: str | None = f"the bucket {bucket} has not been reached yet"
        """Why not, for readiness; None while it can be used."""


async def watch(
    bus: ControlBus,
    bucket: str,
    kind: "TypeForm[Value]",
    changed: Callable[[str, Value | None], None],
    ttl_s: float = TTL_S,
    status: BucketStatus | None = None,
) -> None:
    """Owns a bucket of the own site and tells of every put, with the key, and of every key that is gone, with None. Runs until it
    is cancelled, and keeps `status` up to date.

    Gone means: deleted by its owner, or not put again for `ttl_s`."""
    watcher = _Watcher(bus, bucket, kind, changed, ttl_s, status or BucketStatus(bucket))
    await watcher.run()


class _Watcher:
    def __init__(
        self,
        bus: ControlBus,
        bucket: str,
        kind: "TypeForm[Value]",
        changed: Callable[[str, Value | None], None],
        ttl_s: float,
        status: BucketStatus,
    ) -> None:
        self._bus = bus
        self._status = status
        self._bucket = bucket
        self._changed: Callable[[str, object], None] = changed  # type: ignore[assignment]
        self._kind: TypeForm[object] = kind
        self._ttl_s = ttl_s
        self._put_at_s: dict[str, float] = {}
        """By key, in the order of their last puts."""

    async def run(self) -> None:
        subscription = await self._bus.subscribe_raw(f"$KV.{self._bucket}.>", self._on_put)
        keeping = asyncio.create_task(self._keep_bucket())
        try:
            while not keeping.done():
                await asyncio.wait([keeping], timeout=self._ttl_s / 20)
                self._expire(time.monotonic())
            keeping.result()  # it ends by an error only
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
            await subscription.drain()

    async def _keep_bucket(self) -> None:
        """Makes the bucket whenever it is missing, and reads once what others put before us."""
        next_s, known = 0.0, False
        while True:
            if not self._bus.connected:
                next_s = 0.0  # the server may come back without its store
            elif time.monotonic() >= next_s:
                next_s = time.monotonic() + _ENSURE_EVERY_S
                try:
                    await ensure_bucket(self._bus, self._bucket, self._ttl_s)
                    if not known:
                        await self._read_all()
                        known = True
                    self._status.problem = None
                except (BusError, TimeoutError) as error:
                    reason = str(error) or "no answer in time"
                    self._status.problem = f"the bucket {self._bucket} cannot be used: {reason}"
                    _log.warning("bucket_unreachable", bucket=self._bucket, reason=reason)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _read_all(self) -> None:
        async def read(jetstream: JetStreamContext) -> list[KeyValue.Entry]:
            watcher = await (await jetstream.key_value(self._bucket)).watchall()
            entries: list[KeyValue.Entry] = []
            try:
                async with asyncio.timeout(_SNAPSHOT_DEADLINE_S):
                    async for entry in watcher:
                        if entry is None:  # all that was there
                            break
                        entries.append(entry)
            finally:
                await watcher.stop()  # type: ignore[no-untyped-call]
            return entries

        for entry in await call(self._bus, f"the bucket {self._bucket} cannot be read", read):
            if entry.key not in self._put_at_s and entry.operation is None:
                self._put(entry.key, entry.value or b"")

    def _on_put(self, message: Msg) -> None:
        key = message.subject.removeprefix(f"$KV.{self._bucket}.")
        if (message.headers or {}).get("KV-Operation") in ("DEL", "PURGE"):
            self._drop(key)
        else:
            self._put(key, message.data)

    def _put(self, key: str, value: bytes) -> None:
        try:
            entry = decode(value, self._kind)
        except BadMessageError as error:
            _log.error("entry_unreadable", bucket=self._bucket, key=key, reason=str(error))
            return
        self._put_at_s.pop(key, None)
        self._put_at_s[key] = time.monotonic()
        self._changed(key, entry)

    def _expire(self, now_s: float) -> None:
        for key in [key for key, put_at_s in self._put_at_s.items() if now_s - put_at_s > self._ttl_s]:
            self._drop(key)

    def _drop(self, key: str) -> None:
        if self._put_at_s.pop(key, None) is not None:
            self._changed(key, None)
