"""JetStream's fast ingest on the wire: reply subjects that carry a frame's place in its batch, and the server's answers.

A reply subject is <inbox>.<batch id>.<acknowledge every n messages>.<gap mode>.<sequence>.<operation>.$FI
"""

import secrets
from enum import IntEnum

import msgspec

from prfaas.bus.bulk.wire import Message
from prfaas.contracts.wire import BadMessageError, decode_json
from prfaas.telemetry.faults import FAULTS
from prfaas.transfer.sender_core import NO_RESPONDERS
from prfaas.transfer.sender_events import Acknowledged, BatchEnded, Refused, SenderEvent


class Operation(IntEnum):
    START = 0
    APPEND = 1
    COMMIT = 2
    PING = 4


class _ReplyError(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Reply(msgspec.Struct):
    """Flow acknowledgement, gap, error, or the acknowledgement that ends a batch."""

    type: str = ""
    seq: int = 0
    count: int | None = None
    error: _ReplyError | None = None


class BatchReplies:
    """Reply subjects of one sender's batches, below its inbox. Batch ids are unique among all senders of an object."""

    def __init__(self, inbox: str) -> None:
        self._inbox = inbox
        self._salt = secrets.token_hex(6)

    def subject(self, batch: int, sequence: int, operation: Operation) -> str:
        # Every message is acknowledged: a ping only repeats the last acknowledgement, so a coarser rhythm stalls a small window.
        return f"{self._inbox}.{self._salt}{batch}.1.fail.{sequence}.{operation:d}.$FI"

    def event(self, message: Message, now_s: float) -> SenderEvent | None:
        """Returns what the answer says; None when it only announces another one, or answers nothing that was sent from here.
        Releases the message."""
        try:
            batch_id, _, _, _, operation, _ = message.subject[len(self._inbox) + 1 :].split(".")
            batch = int(batch_id[len(self._salt) :])
        except ValueError:
            FAULTS.undecodable["ingest"] += 1
            message.release()
            return None
        if message.status == NO_RESPONDERS:
            message.release()
            return Refused(batch, NO_RESPONDERS, "no stream takes the object: the link is down or the bucket is gone", now_s)
        try:
            answer = decode_json(message.payload, _Reply)
        except BadMessageError:
            FAULTS.undecodable["ingest"] += 1
            return None
        finally:
            message.release()
        if answer.type == "ack":
            return Acknowledged(batch, answer.seq, operation == str(int(Operation.PING)), now_s)
        if answer.error is not None:
            return Refused(batch, answer.error.err_code, answer.error.description, now_s)
        if answer.count is not None:
            return BatchEnded(batch, answer.count, answer.seq, now_s)
        # A "gap" only announces the batch's end, whose exact count follows.
        return None
