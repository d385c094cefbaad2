"""Sender, broker and receiver under every fault at once: what is installed is exactly what was sent, or the transfer fails.

Faults of the way (drop, repeat, reorder, truncate, flip, delay, restarts) must cost nothing but time, as long as the stream can
be read again. Frames that do not belong, with checksums that are right, must be dropped or end the transfer: see forgery.py.
"""

import copy
from collections import deque

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from prfaas.contracts.codes import FailureCode
from prfaas.kvcache.layout import KVLayout, LayerKind, LayerSpec
from prfaas.transfer import frame as kv
from prfaas.transfer import receiver_events as receiver
from prfaas.transfer import sender_events as sender
from prfaas.transfer.receiver_core import ReceiverCore, ReceiverState
from prfaas.transfer.sender_core import SenderCore, SenderState
from tests.budget import examples
from tests.kvcache.kv import Cache, encode_transfer, make_pieces, make_transfer
from tests.transfer.broker_model import BrokerModel, Sent
from tests.transfer.forgery import Forger

LAYOUT = KVLayout(
    dtype="float16",
    layers=(
        LayerSpec(kind=LayerKind.SLIDING, kv_heads=1, head_dim=1, window_tokens=4),
        LayerSpec(kind=LayerKind.FULL, kv_heads=1, head_dim=2),
        LayerSpec(kind=LayerKind.RECURRENT, state_bytes=20),
    ),
)
MAX_PAYLOAD_BYTES = 16
DEADLINE_AT = 1000.0
IDLE_S = 300.0
MAX_REWINDS = 3


FAULTS = st.sampled_from(["none", "flip", "cut", "drop", "twice", "late"])


class TransferMachine(RuleBasedStateMachine):
    @initialize(tokens=st.integers(1, 12), chunk=st.integers(1, 5), cached=st.integers(0, 3))
    def start(self, tokens: int, chunk: int, cached: int) -> None:
        self.now = 0.0
        self.transfer = transfer = msgspec.structs.replace(make_transfer(tokens, attempt=2), from_token=min(cached, tokens - 1))
        pieces = make_pieces(LAYOUT, tokens, chunk, from_token=transfer.from_token)
        self.messages = encode_transfer(transfer, LAYOUT, pieces, MAX_PAYLOAD_BYTES)
        self.positions = {data: position for position, data in enumerate(self.messages)}
        other_pieces = make_pieces(LAYOUT, tokens, chunk, seed=1, from_token=transfer.from_token)
        others = (
            msgspec.structs.replace(transfer, attempt=1),
            msgspec.structs.replace(transfer, transfer_id=make_transfer(tokens).transfer_id),
        )
        self.other_messages = [encode_transfer(other, LAYOUT, other_pieces, MAX_PAYLOAD_BYTES) for other in others]
        """Frames of an older attempt, and of another transfer with the same attempt's number."""
        self.expected = Cache.of(pieces)
        self.broker = BrokerModel()
        self.lost_memory = False
        self.senders = 0
        self.start_sender()
        self.start_receiver()
        self.connections: list[deque[Sent]] = [deque()]
        """Connections to the server; the last one is alive, what is left in earlier ones may still arrive."""
        self.answers: deque[sender.SenderEvent] = deque()
        self.connected = True

    def start_sender(self) -> None:
        self.senders += 1
        self.sender = SenderCore(now_s=self.now, deadline_at=DEADLINE_AT, idle_timeout_s=100.0)
        self.sender.batch = 1000 * self.senders  # every sender's batches have names of their own
        self.queued = 0

    def start_receiver(self) -> None:
        self.receiver = ReceiverCore(self.transfer, LAYOUT, now_s=self.now, deadline_at=DEADLINE_AT, idle_timeout_s=IDLE_S)
        self.cache = Cache()
        self.read_from = 1
        self.outcome = ""
        self.damage = 0
        """Faults of delivery, each of which may make the receiver read again once."""
        self.rewinds = 0
        self.accepted_at = 0
        """Sequence of the last frame that it took."""
        self.forged = False
        """It took a frame that the sender never sent."""
        self.end_dropped = False
        """Its last frame, after which nothing shows that one is missing: a server that does that breaks the connection."""

    def tell_sender(self, event: sender.SenderEvent) -> None:
        for instruction in self.sender.handle(event):
            match instruction:
                case sender.SendFrame(position):
                    if self.connected:
                        self.connections[-1].append(Sent(instruction, self.messages[position]))
                case sender.SendPing() | sender.QueryStored():
                    if self.connected:
                        self.connections[-1].append(Sent(instruction, b""))
                case _:
                    pass

    def tell_receiver(self, event: receiver.ReceiverEvent) -> None:
        asked = isinstance(event, receiver.DeliveryLost)
        for instruction in self.receiver.handle(event):
            match instruction:
                case receiver.Install(piece):
                    self.cache.install(piece)
                case receiver.Rewind(sequence):
                    assert sequence == (self.accepted_at + 1 if self.accepted_at else 0)
                    self.read_from = max(sequence, 1)
                    self.rewinds += not asked
                case receiver.Verified():
                    self.outcome = "verified"
                case receiver.Failed(code):
                    self.outcome = str(code)

    def deliver(self, sequence: int, data: bytes) -> None:
        try:
            event: receiver.ReceiverEvent = receiver.FrameArrived(kv.decode_frame(memoryview(data)), sequence, self.now)
        except kv.FrameError as error:
            event = receiver.FrameDamaged(str(error), self.now)
        before = self.receiver.frames
        self.end_dropped = self.end_dropped and data != self.messages[-1]
        self.tell_receiver(event)
        if self.receiver.frames > before:
            self.accepted_at = sequence

    def next_stored(self) -> tuple[int, bytes] | None:
        return next((entry for entry in self.broker.stored if entry[0] >= self.read_from), None)

    @rule(count=st.integers(4, 12), stages=st.integers(2, 4), fault=FAULTS, data=st.data())
    def flow(self, count: int, stages: int, fault: str, data: st.DataObject) -> None:
        """Some frames move on: up to the server, back to the sender, and on to the receiver, where a fault meets them."""
        self.queue(count)
        self.send(count)
        self.server_takes(count, 0, False, False, False)
        if stages > 2:
            self.sender_hears(count)
        if stages > 3:
            self.receiver_reads(count, fault, data)

    def queue(self, count: int) -> None:
        for data in self.messages[self.queued : self.queued + count]:
            self.queued += 1
            self.tell_sender(sender.FrameQueued(len(data), self.queued == len(self.messages)))

    def send(self, count: int) -> None:
        for _ in range(count):
            if self.sender.next_bytes:
                self.tell_sender(sender.SendPermitted(self.now))

    @rule(count=st.integers(1, 8), which=st.integers(0, 3), lost=st.booleans(), answer_lost=st.booleans(), twice=st.booleans())
    def server_takes(self, count: int, which: int, lost: bool, answer_lost: bool, twice: bool) -> None:
        wire = self.connections[-1 - which % len(self.connections)]
        if lost and wire:
            wire.popleft()
        for _ in range(count):
            if not wire:
                return
            sent = wire.popleft()
            for _ in range(2 if twice else 1):
                answer = self.broker.take(sent, self.positions, self.now)
                if answer is not None and not answer_lost:
                    self.answers.append(answer)

    def sender_hears(self, count: int) -> None:
        for _ in range(min(count, len(self.answers)) if self.connected else 0):
            self.tell_sender(self.answers.popleft())

    @precondition(lambda self: self.broker.stored)
    @rule(kind=st.sampled_from(["reconnect", "disconnect", "restart with file", "restart with memory", "wait", "lose delivery"]))
    def disturb(self, kind: str) -> None:
        match kind:
            case "reconnect" | "disconnect":
                self.reconnect(back=kind == "reconnect")
            case "wait":
                self.wait(2.0)
            case "lose delivery":
                self.tell_receiver(receiver.DeliveryLost(self.now))
            case _:
                self.restart_server(keeps_messages=kind == "restart with file")

    def reconnect(self, back: bool) -> None:
        if self.connected:
            self.tell_sender(sender.Disconnected(self.now))
            self.connected = False
        if back:
            self.connections.append(deque())
            self.answers.clear()
            self.connected = True
            self.tell_sender(sender.Connected(self.now))

    @rule()
    def restart_receiver(self) -> None:
        """It reads the same object again from its beginning."""
        self.start_receiver()

    @precondition(lambda self: self.broker.stored)
    @rule()
    def restart_sender(self) -> None:
        """A second author of the same attempt, while frames of the first may still be on their way."""
        self.start_sender()
        self.reconnect(back=True)

    def restart_server(self, keeps_messages: bool) -> None:
        self.lost_memory = self.lost_memory or not keeps_messages
        for wire in self.connections:
            wire.clear()
        self.broker.restart(keeps_messages=keeps_messages)
        self.reconnect(back=True)
        self.tell_receiver(receiver.DeliveryLost(self.now))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.tell_sender(sender.Tick(self.now))
        self.tell_receiver(receiver.Tick(self.now))

    @precondition(lambda self: self.sender.acked)  # before, it would be another sender's object
    @rule(whose=st.integers(0, 1), ahead=st.integers(0, 2))
    def store_what_is_not_ours(self, whose: int, ahead: int) -> None:
        """Stores a foreign frame at a position where the receiver could mistake it for the one that it waits for."""
        messages = self.other_messages[whose]
        self.broker.store(messages[min(self.receiver.frames + ahead, len(messages) - 1)])

    @precondition(lambda self: not self.receiver.finished)
    @rule(which=st.integers(0, 100))
    def meet_what_does_not_belong(self, which: int) -> None:
        """Frames that are not of this attempt are dropped, and nothing has changed.

        What seems to be its next frame and is not ends it at once: tried with copies of the receiver, of which each meets one."""
        for message in self.forger().foreign(which):
            before = self.receiver.frames, dict(self.cache.ends), self.receiver.state
            self.deliver(self.read_from, message)
            assert (self.receiver.frames, self.cache.ends, self.receiver.state) == before
        self.meet_forgeries()
        lost = copy.deepcopy(self.receiver).handle(receiver.DeliveryLost(self.now))
        assert lost == [receiver.Rewind(self.accepted_at + 1 if self.accepted_at else 0)]
        core, out = copy.deepcopy(self.receiver), list[receiver.ReceiverInstruction]()
        for _ in range(MAX_REWINDS + 1):
            out = core.handle(receiver.FrameDamaged("the stream itself is damaged", self.now)) or out
        assert isinstance(out[0], receiver.Failed) and out[0].code is FailureCode.CORRUPT

    def meet_forgeries(self) -> None:
        for kind, forgery in self.forger().forgeries():
            arrived = receiver.FrameArrived(kv.decode_frame(memoryview(forgery.message)), self.read_from, self.now)
            core = copy.deepcopy(self.receiver)
            (end,) = core.handle(arrived)
            assert isinstance(end, receiver.Failed) and end.code is forgery.code, kind
            assert core.frames == self.receiver.frames

    @precondition(lambda self: 0 < self.receiver.frames < len(self.messages) - 1 and not self.receiver.finished)
    @rule()
    def take_other_bytes(self) -> None:
        """Nothing but the manifest tells that they were exchanged."""
        self.deliver(self.read_from, self.forger().other_bytes())
        self.forged = True

    def forger(self) -> Forger:
        return Forger(LAYOUT, self.messages, self.other_messages, self.receiver.frames, self.receiver.raw_bytes)

    @precondition(lambda self: self.next_stored() and not self.receiver.finished)
    @rule(count=st.integers(1, 8), fault=FAULTS, data=st.data())
    def receiver_reads(self, count: int, fault: str, data: st.DataObject) -> None:
        for number in range(count):
            entry = self.next_stored()
            if entry is None:
                return
            sequence, message = entry
            self.read_from = sequence + 1
            self.damage += number == 0 and fault in ("drop", "late", "cut", "flip")
            if number == 0 and fault == "drop":
                self.end_dropped = self.end_dropped or message == self.messages[-1]
                continue
            if number == 0 and fault == "late":
                later = self.next_stored()
                if later is not None:
                    self.deliver(*later)
            if number == 0 and fault == "cut":
                message = message[: data.draw(st.integers(0, len(message) - 1))]
            if number == 0 and fault == "flip":
                in_payload = data.draw(st.booleans())
                bits = (
                    st.integers(8 * kv.HEADER_BYTES, 8 * len(message) - 1)
                    if in_payload
                    else st.integers(0, 8 * kv.HEADER_BYTES - 1)
                )
                bit = data.draw(bits)
                flipped = bytearray(message)
                flipped[bit // 8] ^= 1 << bit % 8
                message = bytes(flipped)
            before = self.rewinds
            if self.read_from == sequence + 1 or fault != "late":
                self.deliver(sequence, message)
            if number == 0 and fault == "twice":
                self.damage += self.rewinds > before  # behind a gap the second one does not fit either
                self.deliver(sequence, message)

    @invariant()
    def only_what_was_sent(self) -> None:
        if not hasattr(self, "sender"):
            return
        self.sender.validate()
        self.receiver.validate()
        assert self.rewinds <= min(self.damage, MAX_REWINDS), "read again without a reason"
        if self.forged:
            assert self.outcome != "verified"
            return
        for layer, keys in self.cache.keys.items():
            assert bytes(self.expected.keys[layer]).startswith(keys)
            assert bytes(self.expected.values[layer]).startswith(self.cache.values[layer])
        if self.outcome == "verified":
            assert self.cache == self.expected
        assert self.outcome in ("", "verified", "timeout") or (self.outcome == "corrupt" and self.damage > MAX_REWINDS)

    def teardown(self) -> None:
        """Ends without further faults: both sides end soon, and what can arrive does."""
        if not hasattr(self, "sender"):
            return
        if not self.connected:
            self.reconnect(back=True)
        if self.end_dropped:
            self.tell_receiver(receiver.DeliveryLost(self.now))
        for _ in range(2000):
            if self.sender.finished and (self.receiver.finished or self.sender.state is SenderState.FAILED):
                break
            self.queue(5)
            self.send(len(self.messages))
            for wire in self.connections:
                while wire:
                    answer = self.broker.take(wire.popleft(), self.positions, self.now)
                    if answer is not None:
                        self.answers.append(answer)
            while self.answers:
                self.tell_sender(self.answers.popleft())
            while (entry := self.next_stored()) is not None and not self.receiver.finished:
                if self.receiver.frames == len(self.messages) - 1 and not self.forged:
                    self.meet_forgeries()
                self.read_from = entry[0] + 1
                self.deliver(*entry)
            self.only_what_was_sent()
            self.wait(1.0)
        assert self.sender.finished
        if self.sender.state is SenderState.COMMITTED and not self.lost_memory and not self.forged:
            assert self.outcome == "verified" or self.damage > MAX_REWINDS
        if not self.receiver.finished:
            self.wait(IDLE_S if self.receiver.state is ReceiverState.RECEIVING else DEADLINE_AT - self.now)
            assert self.outcome == "timeout"
        self.only_what_was_sent()


TransferMachine.TestCase.settings = settings(
    max_examples=examples(150), stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestTransfer = TransferMachine.TestCase


def test_without_faults_everything_arrives() -> None:
    machine = TransferMachine()
    machine.start(tokens=12, chunk=5, cached=2)
    machine.teardown()
    assert machine.outcome == "verified"
    assert machine.cache == machine.expected


def test_a_frame_that_comes_twice_behind_a_gap_makes_it_read_again_twice_and_arrives() -> None:
    machine = TransferMachine()
    machine.start(tokens=1, chunk=1, cached=0)
    machine.queue(4)
    machine.send(4)
    machine.server_takes(4, 0, lost=False, answer_lost=False, twice=False)
    for fault in ("drop", "twice"):
        machine.receiver_reads(1, fault, None)
        machine.only_what_was_sent()
    assert machine.rewinds == machine.damage == 2
    machine.teardown()
    assert machine.outcome == "verified"
