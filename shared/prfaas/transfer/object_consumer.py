"""Pull consumer of one object's frames, on the decode site's own server. It may be opened again, from a later frame on."""

import json
import secrets
import time
from collections.abc import Callable
from typing import Any

from prfaas.bus.bulk.bucket import STREAM_NOT_FOUND, JetStreamError, api, chunk_subject, stream_name
from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.bulk.wire import LaneError, Message
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVTransfer
from prfaas.transfer.errors import TransferError

INACTIVE_S = 20.0
"""Time after which the server drops the consumer of a receiver that died."""
API_TIMEOUT_S = 5.0
_PULL_FRAMES = 16
"""Frames per pull. Two pulls are kept outstanding; the server is near, so this is several bandwidth-delay products."""
_PULL_EXPIRES_S = 30.0
_HEARTBEAT_S = 2.0
_SILENT_AFTER_S = 3 * _HEARTBEAT_S
_HEARTBEAT, _CONSUMER_GONE = 100, (404, 409, 503)
"""Status of messages without a payload."""
_NANOSECONDS = 1_000_000_000


class ObjectConsumer:
    """Belongs to the loop's thread."""

    def __init__(
        self,
        lane: BulkLane,
        transfer: KVTransfer,
        on_message: Callable[[Message], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """`failed` is told when `on_message` raised: nothing arrives any more."""
        self.stream = stream_name(transfer.bucket)
        self.subject = chunk_subject(transfer.bucket, transfer.nuid)
        self._lane = lane
        self._on_message = on_message
        self._failed = failed
        self._name = ""
        self._sid = 0
        self._inbox = ""
        self._credit = 0
        """Frames that the server may still send without being asked."""
        self._heard_at = time.monotonic()

    async def open(self, start_sequence: int) -> None:
        """Frames flow from `start_sequence` of the stream on (0: the object's first). Raises LaneError, TimeoutError."""
        self._name = name = f"kvr-{secrets.token_hex(8)}"
        config: dict[str, Any] = {
            "name": name,
            "filter_subject": self.subject,
            "deliver_policy": "by_start_sequence" if start_sequence else "all",
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(INACTIVE_S * _NANOSECONDS),
        }
        if start_sequence:
            config["opt_start_seq"] = start_sequence
        self._credit = 0
        self._heard_at = time.monotonic()
        self._inbox = f"{self._lane.inbox}-{name}"
        self._sid = self._lane.subscribe(self._inbox, self._on_message, self._failed)
        await api(
            self._lane,
            f"CONSUMER.CREATE.{self.stream}.{name}.{self.subject}",
            {"stream_name": self.stream, "config": config, "action": "create"},
            timeout_s=API_TIMEOUT_S,
        )
        self._heard_at = time.monotonic()
        self.top_up()

    def silence(self) -> None:
        """Delivers nothing any more; what is under way is dropped."""
        self._lane.unsubscribe(self._sid)

    async def delete(self) -> None:
        """Raises LaneError, TimeoutError."""
        if self._name and self._lane.is_connected:
            name, self._name = self._name, ""
            await api(self._lane, f"CONSUMER.DELETE.{self.stream}.{name}", timeout_s=API_TIMEOUT_S)

    async def check_still_stored(self, start_sequence: int) -> None:
        """Raises TransferError when the server has lost frames before `start_sequence`: a memory store dies with its server, and
        waiting for the rest of an object that has lost its beginning is vain."""
        if not start_sequence:
            return
        try:
            state = (await api(self._lane, f"STREAM.INFO.{self.stream}", timeout_s=API_TIMEOUT_S))["state"]
        except JetStreamError as error:
            if error.code != STREAM_NOT_FOUND:
                raise
            state = {"last_seq": 0}
        if int(state.get("last_seq", 0)) < start_sequence - 1:
            raise TransferError(FailureCode.BROKER, f"the server has lost {self.stream} and what was stored of this object")

    def top_up(self) -> None:
        """Keeps between one and two pulls outstanding."""
        while self._credit <= _PULL_FRAMES:
            pull = {
                "batch": _PULL_FRAMES,
                "expires": int(_PULL_EXPIRES_S * _NANOSECONDS),
                "idle_heartbeat": int(_HEARTBEAT_S * _NANOSECONDS),
            }
            payload = json.dumps(pull).encode()
            try:
                self._lane.publish(
                    f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self._name}", [payload], len(payload), reply=self._inbox
                )
            except LaneError:
                return
            self._credit += _PULL_FRAMES

    def frame_came(self, now_s: float) -> None:
        self._heard_at = now_s
        self._credit -= 1

    def status_came(self, message: Message, now_s: float) -> bool:
        """Takes a message without a payload. Returns whether the consumer is gone."""
        self._heard_at = now_s
        if message.status == _HEARTBEAT:
            return False
        pending = message.header("Nats-Pending-Messages")
        if pending is not None and pending.isascii() and pending.isdigit():
            self._credit -= int(pending)  # of a pull that has ended
            return False
        return message.status in _CONSUMER_GONE

    def fell_silent(self, now_s: float) -> bool:
        """Tells whether heartbeats are missing on a connection that stands: a server that was restarted forgets the consumer."""
        if not self._lane.is_connected or now_s - self._heard_at <= _SILENT_AFTER_S:
            return False
        self._heard_at = now_s
        return True
