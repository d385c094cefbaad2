"""A sender asks things of fast ingest in a reply subject, and reads the server's answers."""

import json
from typing import Any

import pytest

from prfaas.bus.bulk.wire import BufferPool, Message
from prfaas.telemetry.faults import FAULTS
from prfaas.transfer.fast_ingest import BatchReplies, Operation
from prfaas.transfer.sender_events import Acknowledged, BatchEnded, Refused, SenderEvent

INBOX = "_INBOX.abc.7"


def answer(replies: BatchReplies, batch: int, sequence: int, operation: Operation, payload: dict[str, Any]) -> SenderEvent | None:
    subject = replies.subject(batch, sequence, operation)
    return replies.event(Message(1, subject, "", b"", memoryview(json.dumps(payload).encode())), 5.0)


def test_a_reply_subject_says_which_frame_of_which_batch_and_that_a_gap_ends_it() -> None:
    replies = BatchReplies(INBOX)
    subject = replies.subject(3, 12, Operation.APPEND)
    assert subject.startswith(f"{INBOX}.") and subject.endswith("3.1.fail.12.1.$FI")


def test_two_senders_of_one_object_never_share_a_batch() -> None:
    assert BatchReplies(INBOX).subject(1, 1, Operation.START) != BatchReplies(INBOX).subject(1, 1, Operation.START)


def test_answers_are_read_with_the_batch_they_are_for() -> None:
    replies = BatchReplies(INBOX)
    assert answer(replies, 3, 9, Operation.APPEND, {"type": "ack", "seq": 8}) == Acknowledged(3, 8, False, 5.0)
    assert answer(replies, 3, 9, Operation.PING, {"type": "ack", "seq": 8}) == Acknowledged(3, 8, True, 5.0)
    assert answer(replies, 3, 9, Operation.COMMIT, {"count": 9, "seq": 77}) == BatchEnded(3, 9, 77, 5.0)
    error = {"error": {"err_code": 10208, "description": "batch publish ID unknown"}}
    assert answer(replies, 4, 1, Operation.PING, error) == Refused(4, 10208, "batch publish ID unknown", 5.0)
    assert answer(replies, 3, 9, Operation.APPEND, {"type": "gap", "seq": 5}) is None, "the exact count follows"


def test_no_responders_is_a_refusal_that_may_pass() -> None:
    replies = BatchReplies(INBOX)
    event = replies.event(Message(1, replies.subject(2, 1, Operation.START), "", b"NATS/1.0 503\r\n\r\n", memoryview(b"")), 5.0)
    assert isinstance(event, Refused) and (event.batch, event.code) == (2, 503)


def test_an_answers_buffer_is_given_back() -> None:
    replies, pool = BatchReplies(INBOX), BufferPool()
    buffer = pool.take(64)
    payload = b'{"type":"ack","seq":1}'
    buffer[: len(payload)] = payload
    subject = replies.subject(1, 1, Operation.START)
    replies.event(Message(1, subject, "", b"", memoryview(buffer)[: len(payload)], pool, buffer), 5.0)
    assert pool.taken_bytes == 0


@pytest.mark.parametrize("tail", ["", "x", "1.1.fail.1.1", "abc1.1.fail.1.1.$FI.more", "no-number.1.fail.1.1.$FI"])
def test_an_answer_to_nothing_that_was_asked_is_dropped(tail: str) -> None:
    before = FAULTS.undecodable["ingest"]
    message = Message(1, f"{INBOX}.{tail}", "", b"", memoryview(b'{"type":"ack","seq":1}'))
    assert BatchReplies(INBOX).event(message, 5.0) is None
    assert FAULTS.undecodable["ingest"] == before + 1


@pytest.mark.parametrize("payload", [b"", b"{", b'{"seq":"one"}', b"[" * 100_000])
def test_an_answer_that_does_not_decode_is_dropped(payload: bytes) -> None:
    replies, before = BatchReplies(INBOX), FAULTS.undecodable["ingest"]
    message = Message(1, replies.subject(1, 1, Operation.APPEND), "", b"", memoryview(payload))
    assert replies.event(message, 5.0) is None
    assert FAULTS.undecodable["ingest"] == before + 1
