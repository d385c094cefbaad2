"""Presence: entries that their owners put into a site's KV bucket again and again, and that vanish when they stop.

The scheduler hears every put as a message on the bucket's subject, which survives restarts of the server without any state. The
bucket itself is for watchers that come later, and for operators.

Anybody with a key may put anything. An entry that does not decode, or that stands under a key not its own, is dropped and
counted. It never ends a watcher.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig, SubjectTransform
from nats.js.kv import KeyValue

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError
from prfaas.bus.jetstream import call, ensure_stream, publish_acknowledged
from prfaas.contracts import subjects
from prfaas.contracts.wire import BadMessageError, decode, encode
from prfaas.telemetry.faults import FAULTS
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
_MAX_ENTRY_BYTES = 64 << 10
"""A sender is allowed its own keys only, so this bounds what all of one site can take of the bucket."""
MAX_ENTRIES_OF_SITE = 4096
"""Live entries that a watcher takes under one first token of their keys: one site's share."""
MAX_SITES = 256
"""First tokens of keys that a watcher takes at once."""


class Entry(Protocol):
    @property
    def key(self) -> str: ...


Value = TypeVar("Value")


async def put_entry(bus: ControlBus, bucket: str, entry: Entry, timeout_s: float = INTERVAL_S) -> None:
    """Puts an entry into a bucket of the own site or of one that is joined to it. Raises BusError."""
    await publish_acknowledged(bus, subjects.entry(bucket, entry.key), encode(entry), timeout_s)


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
        """Reason why no site hears of this process, for readiness; None while one does."""
        if not self._missed or len(self._missed) < len(self._sites):
            return None
        return f"this process cannot be announced to {', '.join(self._missed)}"

    async def run(self) -> None:
        """Announces until withdrawn or cancelled. A put that fails is logged once until one works, and tried at the next beat."""
        while not self._withdrawn:
            started_s = time.monotonic()
            await self.beat()
            await asyncio.sleep(max(0.0, started_s + self._interval_s - time.monotonic()))

    async def beat(self) -> None:
        """Puts the entry to each site now, for a change that should not wait for the next beat."""
        entry = self._make_entry()
        await asyncio.gather(*(self._put(site, entry) for site in self._sites))

    async def withdraw(self) -> None:
        """Says at once that this process is gone. It is not announced again."""
        self._withdrawn = True
        key = self._make_entry().key
        for site in self._sites:
            subject = subjects.entry(self._bucket(site), key)
            try:
                await publish_acknowledged(self._bus, subject, b"", self._interval_s, {"KV-Operation": "DEL"})
            except BusError as error:
                _log.warning("withdrawal_failed", to_site=site, key=key, reason=str(error))

    async def _put(self, site: str, entry: Entry) -> None:
        try:
            await put_entry(self._bus, self._bucket(site), entry, self._interval_s)
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
            subjects=[subjects.entry(bucket, ">")],
            subject_transform=SubjectTransform(src=subjects.entry(bucket, ">"), dest=f"$KV.{bucket}.>"),
            max_msgs_per_subject=1,
            max_msg_size=_MAX_ENTRY_BYTES,
            max_age=ttl_s,
            max_bytes=_MAX_BUCKET_BYTES,
            storage=StorageType.MEMORY,  # put again every second; a disk that was full refuses them until the server restarts
            discard=DiscardPolicy.NEW,
            allow_rollup_hdrs=False,  # with such a header one entry would replace those of all others
            deny_delete=True,
            allow_direct=True,
            duplicate_window=min(ttl_s, 120.0),
        ),
    )


class BucketStatus:
    """Usability of a bucket for its owner."""

    def __init__(self, bucket: str) -> None:
        self.problem: str | None = f"the bucket {bucket} has not been reached yet"
        """Reason why it cannot be used, for readiness; None while it can."""


async def watch(
    bus: ControlBus,
    bucket: str,
    kind: "TypeForm[Value]",
    changed: Callable[[str, Value | None], None],
    ttl_s: float = TTL_S,
    status: BucketStatus | None = None,
) -> None:
    """Owns a bucket of the own site and calls `changed` with (key, entry) for each put and (key, None) for each key that is gone:
    deleted by its owner, or not put again for `ttl_s`. Runs until cancelled, and keeps `status` up to date. What `changed` raises
    is logged and counted."""
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
        self._changed: Callable[[str, Entry | None], None] = changed  # type: ignore[assignment]
        self._kind: TypeForm[Entry] = kind  # type: ignore[assignment]
        self._ttl_s = ttl_s
        self._put_at_s: dict[str, float] = {}
        """Moments of the last puts by key, in their order."""
        self._of_site: Counter[str] = Counter()
        """Live keys by their first token."""
        self._faults = 0

    async def run(self) -> None:
        subscription = await self._bus.subscribe_raw(subjects.entry(self._bucket, ">"), self._on_put)
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
        """Makes the bucket whenever it is missing, and reads once what was put before this watcher came."""
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
                except Exception as error:
                    # nats-py reads the entries and their headers here, which others have written.
                    FAULTS.failed["entry"] += 1
                    self._log_fault("bucket_unreadable", "", error)
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
        key = message.subject.removeprefix(subjects.entry(self._bucket, ""))
        if (message.headers or {}).get("KV-Operation") in ("DEL", "PURGE"):
            self._drop(key)
        else:
            self._put(key, message.data)

    def _put(self, key: str, value: bytes) -> None:
        try:
            entry = decode(value, self._kind)
            self._check(key, entry)
        except BadMessageError as error:
            FAULTS.undecodable["entry"] += 1
            self._log_fault("entry_undecodable", key, error)
            return
        if self._put_at_s.pop(key, None) is None:
            self._of_site[_site_of(key)] += 1
        self._put_at_s[key] = time.monotonic()
        self._tell(key, entry)

    def _check(self, key: str, entry: Entry) -> None:
        """Raises BadMessageError for an entry under another one's name, and for one too many."""
        if entry.key != key:
            raise BadMessageError(f"the entry calls itself {entry.key!r}")
        if key in self._put_at_s:
            return
        site = _site_of(key)
        if self._of_site.get(site, 0) >= MAX_ENTRIES_OF_SITE:
            raise BadMessageError(f"{site} has {MAX_ENTRIES_OF_SITE} entries already, as many as one site may have")
        if site not in self._of_site and len(self._of_site) >= MAX_SITES:
            raise BadMessageError(f"{MAX_SITES} sites have entries already, as many as are taken")

    def _tell(self, key: str, entry: Entry | None) -> None:
        try:
            self._changed(key, entry)
        except Exception as error:
            # One entry's handling fails alone: this runs in a task whose end would be the process's.
            FAULTS.failed["entry"] += 1
            self._log_fault("entry_not_handled", key, error)

    def _log_fault(self, event: str, key: str, error: Exception) -> None:
        """Logs the 1st, 2nd, 4th, 8th...: a bad entry may be put every second for ever."""
        self._faults += 1
        if self._faults & (self._faults - 1) == 0:
            shown = {"reason": str(error)} if isinstance(error, BadMessageError) else {"exc_info": error}
            _log.error(event, bucket=self._bucket, key=key, faults=self._faults, **shown)

    def _expire(self, now_s: float) -> None:
        for key in [key for key, put_at_s in self._put_at_s.items() if now_s - put_at_s > self._ttl_s]:
            self._drop(key)

    def _drop(self, key: str) -> None:
        if self._put_at_s.pop(key, None) is not None:
            site = _site_of(key)
            self._of_site[site] -= 1
            if not self._of_site[site]:
                del self._of_site[site]
            self._tell(key, None)


def _site_of(key: str) -> str:
    return key.partition(".")[0]
