"""Frames in messages: what is packed is what is unpacked, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.transfer.direct_frames import SIZE_BYTES, pack_frames, unpack_frames
from prfaas.transfer.frame import FrameError, FrameKind, OutgoingFrame


def frame(content: bytes) -> OutgoingFrame:
    half = len(content) // 2
    return OutgoingFrame(FrameKind.DATA, (content[:half], memoryview(content)[half:]), b"", len(content), len(content))


@given(contents=st.lists(st.binary(max_size=40), max_size=20), max_bytes=st.integers(1, 200))
def test_frames_come_out_as_they_went_in(contents: list[bytes], max_bytes: int) -> None:
    messages = pack_frames(map(frame, contents), max_bytes)
    payloads = [b"".join(message.buffers) for message in messages]
    assert [len(payload) for payload in payloads] == [message.size_bytes for message in messages]
    assert [bytes(view) for payload in payloads for view in unpack_frames(memoryview(payload))] == contents
    longest = max(map(len, contents), default=0) + SIZE_BYTES
    assert all(message.size_bytes <= max(max_bytes, longest) for message in messages)


@given(contents=st.lists(st.binary(max_size=40), min_size=1, max_size=8), data=st.data())
def test_a_message_that_is_cut_is_no_message(contents: list[bytes], data: st.DataObject) -> None:
    (message,) = pack_frames(map(frame, contents), 1 << 20)
    whole = b"".join(message.buffers)
    ends = {0}
    for content in contents:
        ends.add(max(ends) + SIZE_BYTES + len(content))
    cut = data.draw(st.sampled_from(sorted(set(range(len(whole))) - ends)))
    with pytest.raises(FrameError):
        list(unpack_frames(memoryview(whole)[:cut]))


@given(payload=st.binary(max_size=200))
def test_any_bytes_are_views_within_the_message_or_an_error(payload: bytes) -> None:
    try:
        found = list(unpack_frames(memoryview(payload)))
    except FrameError:
        return
    assert sum(len(view) + SIZE_BYTES for view in found) == len(payload)
