"""A small transfer over a connection that loses, doubles, damages and breaks: right bytes at the receiver, or a clean failure."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prfaas.contracts.codes import FailureCode
from prfaas.kvcache.layout import KVPiece
from prfaas.transfer import direct_core as core
from prfaas.transfer import receiver_events as events
from prfaas.transfer.direct_core import ASK_EVERY_S, UNHEARD_S, DirectCore, DirectState
from prfaas.transfer.direct_frames import pack_frames, unpack_frames
from prfaas.transfer.frame import FrameError, FrameKind, OutgoingFrame
from prfaas.transfer.receiver_core import ReceiverCore, ReceiverState
from prfaas.transfer.sealed_frame import PlainFrames
from tests.kvcache.kv import LAYOUT, Cache, encode_transfer, make_pieces, make_transfer

DEADLINE_AT = 160.0
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
        self.sender = DirectCore(deadline_at=DEADLINE_AT)
        self.receiver = ReceiverCore(transfer, LAYOUT, now_s=self.now_s, deadline_at=1e9, idle_timeout_s=None)
        self.cache = Cache()
        self.wire: list[bytes] = []
        self.answers: list[core.DirectEvent] = []
        self.failed: FailureCode | None = None

    def tell(self, event: core.DirectEvent) -> None:
        for instruction in self.sender.handle(event):
            match instruction:
                case core.SendAll():
                    self.wire += self.messages
                case core.Ask():
                    self.wire.append(b"")
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
        if damaged and payload:
            payload[len(payload) // 2] ^= 1
        self.arrive(memoryview(payload))
        if self.receiver.state is ReceiverState.VERIFIED:
            self.answers.append(core.Verified())
        elif self.receiver.finished:
            self.answers.append(core.NotTaken())
        elif not message:
            self.answers.append(core.Incomplete(self.now_s))

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
            answer = self.answers.pop(0)
            if not lost:
                self.tell(answer)

    @rule()
    def breaks_and_is_back(self) -> None:
        self.wire.clear()
        self.tell(core.Connected(self.now_s))

    @rule(seconds=st.sampled_from([0.1, ASK_EVERY_S, 2 * ASK_EVERY_S]))
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
            self.time_passes(ASK_EVERY_S)
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
    sender = DirectCore(deadline_at=60.0)
    assert sender.handle(core.FramesComplete(1.0)) == [core.SendAll()]
    return sender


def test_it_asks_and_sends_again_only_what_is_missing() -> None:
    sender = complete()
    assert sender.handle(core.Tick(1.0 + ASK_EVERY_S / 2)) == []
    assert sender.handle(core.Tick(1.0 + ASK_EVERY_S)) == [core.Ask()]
    assert sender.handle(core.Tick(1.0 + 1.5 * ASK_EVERY_S)) == []
    assert sender.handle(core.Tick(1.0 + 2 * ASK_EVERY_S)) == [core.Ask()]
    assert sender.handle(core.Incomplete(4.0)) == [core.SendAll()]
    assert sender.handle(core.Incomplete(4.1)) == [], "an answer to a question before that"
    assert sender.sendings == 2


def test_a_receiver_that_stands_still_gets_one_copy() -> None:
    sender = complete()
    asked = [sender.handle(core.Tick(float(moment))) for moment in range(2, 60)]
    assert asked == [[core.Ask()]] * 58
    (failed,) = sender.handle(core.Tick(60.0))
    assert isinstance(failed, core.Failed) and failed.code is FailureCode.TIMEOUT
    assert sender.sendings == 1 and sender.handle(core.Verified()) == []


def test_nobody_who_hears_for_a_while_ends_it() -> None:
    sender = complete()
    assert sender.handle(core.Unheard(1.5)) == []
    assert sender.handle(core.Connected(2.0)) == [core.Ask()]
    assert sender.handle(core.Unheard(2.5)) == []
    assert sender.handle(core.Unheard(2.4 + UNHEARD_S)) == []
    (failed,) = sender.handle(core.Unheard(2.5 + UNHEARD_S))
    assert isinstance(failed, core.Failed) and failed.code is FailureCode.BROKER


@pytest.mark.parametrize(
    "event", [core.Verified(), core.NotTaken(), core.Incomplete(0.5), core.Unheard(0.5), core.Connected(0.5)]
)
def test_news_of_what_was_not_sent_says_nothing(event: core.DirectEvent) -> None:
    sender = DirectCore(deadline_at=60.0)
    assert sender.handle(event) == []
    assert sender.handle(core.FramesComplete(1.0)) == [core.SendAll()]


def test_at_its_deadline_it_fails_even_before_it_is_complete() -> None:
    sender = DirectCore(deadline_at=60.0)
    (failed,) = sender.handle(core.Tick(60.0))
    assert isinstance(failed, core.Failed) and failed.code is FailureCode.TIMEOUT


def test_what_was_given_up_is_not_sent() -> None:
    sender = DirectCore(deadline_at=60.0)
    assert sender.handle(core.Broken(FailureCode.ABORTED, "no more")) == [core.Failed(FailureCode.ABORTED, "no more")]
    assert sender.handle(core.FramesComplete(1.0)) == []
