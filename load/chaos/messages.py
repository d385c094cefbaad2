"""Messages of one request as they pass the pd site's server, to be delivered again, or damaged."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

from load.chaos.steps import Step
from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.bulk.wire import Message
from prfaas.contracts import subjects
from prfaas.transfer.frame import FrameError, decode_frame, transfer_hash

_POLL_S = 0.005
_FRAME_STEPS = frozenset({Step.FIRST_FRAME, Step.MIDDLE_FRAME, Step.MANIFEST})


class Seen(NamedTuple):
    subject: str
    payload: bytes


class Messages:
    """Hears both accounts of a site with the operator's keys, while `listening`."""

    def __init__(self, site: str, control: BulkLane, bulk: BulkLane) -> None:
        self._control = control
        self._bulk = bulk
        events = subjects.events_from(subjects.events(site, "*"), "*")
        self._kinds: dict[Step, tuple[BulkLane, str]] = {
            Step.PLACING: (control, subjects.place(site)),
            Step.PLACED: (control, subjects.place(site)),
            Step.ACCEPTED: (control, subjects.generate(site, "*")),
            Step.JOB_STORED: (control, "jobs.>"),
            Step.JOB_TAKEN: (control, "jobs.>"),
            **dict.fromkeys(_FRAME_STEPS, (bulk, "$O.*.C.*")),
            Step.DECODING: (control, events),
        }
        """Account and subject of the message that leads to a step."""
        self._seen: list[Seen] = []

    @contextlib.asynccontextmanager
    async def listening(self, step: Step) -> AsyncIterator[None]:
        lane, subject = self._kinds[step]
        self._seen.clear()
        sid = lane.subscribe(subject, self._take)
        try:
            await asyncio.sleep(0)
            yield
        finally:
            lane.unsubscribe(sid)
            self._seen.clear()

    def _take(self, message: Message) -> None:
        self._seen.append(Seen(message.subject, bytes(message.payload)))
        message.release()

    async def last(self, step: Step, request_id: str, timeout_s: float = 5.0) -> Seen:
        """Returns the last message of the request that led to the step. Raises TimeoutError."""
        until_at = time.monotonic() + timeout_s
        while time.monotonic() < until_at:
            for seen in reversed(self._seen):
                if _is_of(step, seen.payload, request_id):
                    return seen
            await asyncio.sleep(_POLL_S)
        raise TimeoutError(f"no message of request {request_id} was heard that leads to {step}")

    def send(self, step: Step, message: Seen) -> None:
        lane, _ = self._kinds[step]
        lane.publish(message.subject, [message.payload], len(message.payload), reply=f"{lane.inbox}.again")


def damaged(step: Step, message: Seen) -> Seen:
    """Returns a frame with one bit flipped in its payload, or a control message that ends too early.

    Only frames stay with a server for a while and carry a checksum of ours; a bit of another message TCP and TLS protect."""
    data = bytearray(message.payload)
    if step in _FRAME_STEPS:
        data[-1] ^= 0x10
    else:
        del data[len(data) * 2 // 3 :]
    return Seen(message.subject, bytes(data))


def _is_of(step: Step, payload: bytes, request_id: str) -> bool:
    if step not in _FRAME_STEPS:
        return request_id.encode() in payload
    try:
        return decode_frame(memoryview(payload)).head.transfer_hash == transfer_hash(request_id)
    except FrameError:
        return False
