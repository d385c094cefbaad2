"""A small transfer over a connection that loses, doubles, damages and breaks: right bytes at the receiver, or a clean failure."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prfaas.contracts.codes import FailureCode
from prfaas.kvcache.layout import KVPiece
from prfaas.transfer import direct_core as core
from prfaas.transfer import receiver_events as events
from prfaas.transfer.direct_core import RESEND_S, DirectCore, DirectState
from prfaas.transfer.direct_frames import pack_frames, unpack_frames
from prfaas.transfer.frame import FrameError, FrameKind, OutgoingFrame
from prfaas.transfer.receiver_core import ReceiverCore, ReceiverState
from prfaas.transfer.sealed_frame import PlainFrames
from tests.kvcache.kv import LAYOUT, Cache, encode_transfer, make_pieces, make_transfer

IDLE_S = 5.0
TOKENS = 130


class DirectTransfer(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        transfer = make_transfer(TOKENS)
        self.pieces = make_pieces(LAYOUT, TOKENS, 64)
        frames = [
            OutgoingFrame(FrameKind.DATA, (message,), b"", len(message), 0)
            for message in encode_transfer(transfer, LAYOUT, self.pieces, 20_000)
        ]
        self.messages = [b"".join(message.buffers) for message in pack_frames(frames, 60_000)]
        assert len(self.messages) > 2
        self.frames = len(frames)
        self.sender = DirectCore(deadline_at=160.0, idle_timeout_s=IDLE_S)
        self.receiver = ReceiverCore(transfer, LAYOUT, now_s=self.now_s, deadline_at=160.0, idle_timeout_s=None)
        self.cache = Cache()
        self.wire: list[bytes] = []
        self.answers: list[int] = []
        self.failed: FailureCode | None = None

    def tell(self, event: core.DirectEvent) -> None:
        for instruction in self.sender.handle(event):
            match instruction:
                case core.SendAll():
                    self.wire += self.messages
                case core.Failed(code, _):
                    self.failed = code

    @rule()
    def complete(self) -> None:
        if self.sender.state is DirectState.FRAMING:
            self.tell(core.FramesComplete(self.now_s))

    @rule(lost=st.booleans(), doubled=st.booleans(), damaged=st.booleans())
    def deliver(self, lost: bool, doubled: bool, damaged: bool) -> None:
        if not self.wire:
            return
        message = self.wire.pop(0)
        if doubled:
            self.wire.insert(0, message)
        if lost:
            return
        payload = bytearray(message)
        if damaged:
            payload[len(payload) // 2] ^= 1
        self.arrive(memoryview(payload))
        if self.receiver.finished:
            self.answers.append(self.receiver.frames if self.receiver.state is ReceiverState.VERIFIED else 0)

    def arrive(self, payload: memoryview) -> None:
        """Follows KVReceiver._on_direct."""
        try:
            for view in unpack_frames(payload):
                if self.receiver.finished:
                    return
                frame = PlainFrames().decode(view)
                if frame.head.position > self.receiver.frames:
                    return
                self.obey(self.receiver.handle(events.FrameArrived(frame, frame.head.position + 1, self.now_s)))
        except FrameError as error:
            self.obey(self.receiver.handle(events.FrameDamaged(str(error), self.now_s)))

    def obey(self, instructions: list[events.ReceiverInstruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, events.Install):
                piece: KVPiece = instruction.piece
                self.cache.install(piece)

    @rule(lost=st.booleans())
    def answer(self, lost: bool) -> None:
        if self.answers:
            frames = self.answers.pop(0)
            if not lost:
                self.tell(core.Verified() if frames == self.frames else core.NotTaken())

    @rule()
    def breaks_and_is_back(self) -> None:
        self.wire.clear()
        self.tell(core.Connected(self.now_s))

    @rule(seconds=st.sampled_from([0.1, RESEND_S, 2 * RESEND_S]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.tell(core.Tick(self.now_s))

    @invariant()
    def what_is_verified_is_right(self) -> None:
        self.receiver.validate()
        if self.receiver.state is ReceiverState.VERIFIED:
            assert self.cache == Cache.of(self.pieces)
        if self.sender.state is DirectState.VERIFIED:
            assert self.receiver.state is ReceiverState.VERIFIED
        assert (self.sender.state is DirectState.FAILED) == (self.failed is not None)

    def teardown(self) -> None:
        """Lets both come to an end, over a connection that loses nothing any more."""
        self.complete()
        for _ in range(10):
            self.time_passes(RESEND_S)
            while self.wire:
                self.deliver(lost=False, doubled=False, damaged=False)
            while self.answers:
                self.answer(lost=False)
        assert self.sender.finished
        if self.failed is None:
            assert self.receiver.state is ReceiverState.VERIFIED


TestDirectTransfer = DirectTransfer.TestCase
TestDirectTransfer.settings = settings(max_examples=60, stateful_step_count=40)


def complete() -> DirectCore:
    sender = DirectCore(deadline_at=60.0, idle_timeout_s=IDLE_S)
    assert sender.handle(core.FramesComplete(1.0)) == [core.SendAll()]
    return sender


def test_nothing_is_sent_again_before_its_time() -> None:
    sender = complete()
    assert sender.handle(core.Tick(1.0 + RESEND_S / 2)) == []
    assert sender.handle(core.Tick(1.0 + RESEND_S)) == [core.SendAll()]
    assert sender.handle(core.Tick(1.0 + 1.5 * RESEND_S)) == []


def test_without_a_word_it_fails_after_its_idle_time() -> None:
    sender = complete()
    (failed,) = sender.handle(core.Tick(1.0 + IDLE_S))
    assert isinstance(failed, core.Failed) and failed.code is FailureCode.TIMEOUT and "not verified for 5 s" in failed.message
    assert sender.handle(core.Verified()) == []


@pytest.mark.parametrize("event", [core.Verified(), core.NotTaken()])
def test_an_answer_to_what_was_not_sent_says_nothing(event: core.DirectEvent) -> None:
    sender = DirectCore(deadline_at=60.0, idle_timeout_s=IDLE_S)
    assert sender.handle(event) == []
    assert sender.handle(core.FramesComplete(1.0)) == [core.SendAll()]


def test_at_its_deadline_it_fails_even_before_it_is_complete() -> None:
    sender = DirectCore(deadline_at=60.0, idle_timeout_s=IDLE_S)
    (failed,) = sender.handle(core.Tick(60.0))
    assert isinstance(failed, core.Failed) and failed.code is FailureCode.TIMEOUT


def test_what_was_given_up_is_not_sent() -> None:
    sender = DirectCore(deadline_at=60.0, idle_timeout_s=IDLE_S)
    assert sender.handle(core.Broken(FailureCode.ABORTED, "no more")) == [core.Failed(FailureCode.ABORTED, "no more")]
    assert sender.handle(core.FramesComplete(1.0)) == []
