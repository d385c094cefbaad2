import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.bus.bulk.wire import BufferPool, LaneError, Message, WireParser, header_block


class Received:
    def __init__(self) -> None:
        self.pool = BufferPool()
        self.messages: list[tuple[int, str, str, bytes, bytes]] = []
        self.lines: list[tuple[bytes, bytes]] = []
        self.parser = WireParser(self.pool, self.take, lambda verb, rest: self.lines.append((verb, rest)))

    def take(self, message: Message) -> None:
        self.messages.append((message.sid, message.subject, message.reply, message.headers, bytes(message.payload)))
        message.release()

    def feed(self, data: bytes, sizes: list[int]) -> None:
        """Feeds like a socket: never more than the parser's buffer takes."""
        position, turn = 0, 0
        while position < len(data):
            buffer = self.parser.get_buffer(-1)
            assert len(buffer) > 0
            size = min(len(buffer), sizes[turn % len(sizes)], len(data) - position)
            buffer[:size] = data[position : position + size]
            self.parser.buffer_updated(size)
            position, turn = position + size, turn + 1


MESSAGES = st.lists(
    st.tuples(
        st.sampled_from(["MSG", "HMSG"]),
        st.sampled_from(["", "_INBOX.a"]),
        st.one_of(st.binary(max_size=40), st.integers(16_000, 200_000)),
    ),
    max_size=6,
)


@given(MESSAGES, st.lists(st.integers(1, 70_000), min_size=1, max_size=5))
def test_messages_come_out_as_they_went_in_however_they_are_split(
    sent: list[tuple[str, str, bytes | int]], sizes: list[int]
) -> None:
    data, expected = b"", []
    for number, (verb, reply, content) in enumerate(sent):
        payload = b"\r\nMSG" * (content // 5) if isinstance(content, int) else content
        headers = header_block({"A": str(number)}) if verb == "HMSG" else b""
        counts = f"{len(headers)} {len(headers) + len(payload)}" if headers else str(len(payload))
        data += f"{verb} s.{number} {number} {reply} {counts}\r\n".encode() + headers + payload + b"\r\nPING\r\n"
        expected.append((number, f"s.{number}", reply, headers, payload))
    received = Received()
    received.feed(data, sizes)
    assert received.messages == expected
    assert received.lines == [(b"PING", b"")] * len(sent)
    assert received.pool.taken_bytes == 0


@pytest.mark.parametrize(
    "line",
    [b"MSG a\r\n", b"MSG a x 3\r\n", b"MSG a 1 -3\r\n", b"HMSG a 1 9 3\r\n", b"MSG a 1 99999999999\r\n", b"MSG a 1 b c d 3\r\n"],
)
def test_a_malformed_line_is_an_error(line: bytes) -> None:
    with pytest.raises(LaneError, match="malformed"):
        Received().feed(line, [100])


def test_a_payload_that_does_not_end_is_an_error() -> None:
    with pytest.raises(LaneError, match="does not end"):
        Received().feed(b"MSG a 1 3\r\nabcdefgh\r\n", [100])


def test_an_endless_control_line_is_an_error() -> None:
    with pytest.raises(LaneError, match="control line"):
        Received().feed(b"x" * 70_000, [4096])


def test_status_and_headers() -> None:
    message = Message(1, "a", "", b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 7\r\n\r\n", memoryview(b""))
    assert message.status == 408
    assert message.header("nats-pending-messages") == "7"
    assert message.header("other") is None
    assert Message(1, "a", "", b"NATS/1.0\r\nA: b\r\n\r\n", memoryview(b"")).status == 0


def test_idle_buffers_are_bounded() -> None:
    pool = BufferPool(max_bytes=1 << 20)
    buffers = [pool.take(400_000) for _ in range(8)]
    for buffer in buffers:
        pool.give(buffer)
    assert pool.taken_bytes == 0
    assert pool.idle_bytes <= 1 << 20
