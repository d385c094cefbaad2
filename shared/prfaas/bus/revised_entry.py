"""One entry of a KV bucket that several processes change by compare-and-set: each names the revision that it replaces."""

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BadRevisionError, NoRespondersError, StreamError
from prfaas.bus.jetstream import ensure_stream, store
from prfaas.contracts import subjects
from prfaas.contracts.wire import BadMessageError, decode, encode

if TYPE_CHECKING:
    from typing_extensions import TypeForm

_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_SEQUENCE: Final = "Nats-Sequence"
_NOT_FOUND: Final = "404"
_MAX_BUCKET_BYTES: Final = 1 << 20
_WRONG_REVISION: Final = 10071

Value = TypeVar("Value")


class RevisedEntry(Generic[Value]):
    """An entry in memory: a server that was started again has none, and every connection to it was broken."""

    def __init__(self, bus: ControlBus, bucket: str, key: str, kind: "TypeForm[Value]") -> None:
        self._bus = bus
        self._bucket = bucket
        self._subject = subjects.stored_entry(bucket, key)
        self._kind = kind

    async def ensure(self) -> None:
        """Makes the bucket where it is missing. Raises StreamError, BusTimeoutError, NotConnectedError."""
        await ensure_stream(
            self._bus,
            StreamConfig(
                name=f"KV_{self._bucket}",
                subjects=[subjects.stored_entry(self._bucket, ">")],
                max_msgs_per_subject=1,
                max_bytes=_MAX_BUCKET_BYTES,
                storage=StorageType.MEMORY,
                discard=DiscardPolicy.NEW,
                deny_delete=True,
                allow_direct=True,
            ),
        )

    async def read(self, timeout_s: float) -> tuple[Value | None, int]:
        """Returns the value and its revision; None and 0 where none was put.

        Raises StreamError without the bucket, BadMessageError for a value that does not decode, and what `request_raw` raises."""
        subject = f"$JS.API.DIRECT.GET.KV_{self._bucket}.{self._subject}"
        try:
            answer = await self._bus.request_raw(subject, b"", timeout_s)
        except NoRespondersError as error:
            raise StreamError(f"the bucket {self._bucket} is not there") from error
        headers = answer.headers or {}
        if headers.get("Status") == _NOT_FOUND:
            return None, 0
        if not headers.get(_SEQUENCE, "").isdigit():
            raise BadMessageError(f"the bucket {self._bucket} answered without a revision: {headers}")
        return decode(answer.data, self._kind), int(headers[_SEQUENCE])

    async def replace(self, value: Value, revision: int, timeout_s: float) -> int:
        """Puts the value in place of this revision (0: of none) and returns the new one.

        Raises BadRevisionError when the entry has another one, and what `store` raises."""
        try:
            return await store(self._bus, self._subject, encode(value), timeout_s, {_EXPECTED: str(revision)})
        except StreamError as error:
            if error.code == _WRONG_REVISION:
                raise BadRevisionError(f"{self._subject} is not at revision {revision} any more") from error
            raise
