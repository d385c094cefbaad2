from load.chaos.messages import Seen, damaged
from load.chaos.steps import Step
from prfaas.kvcache.layout import LayerRange
from prfaas.transfer.frame import Codec, FrameError, FrameHead, FrameKind, decode_frame, encode_frame


def test_a_damaged_frame_fails_its_checksum_and_a_damaged_message_ends_too_early() -> None:
    payload = b"kv" * 100
    head = FrameHead(FrameKind.DATA, Codec.RAW, 1, 3, LayerRange(0, 0, 4), 0, len(payload), len(payload), 7)
    sent = b"".join(encode_frame(head, (memoryview(payload),)).buffers)
    assert decode_frame(memoryview(sent)).head == head
    broken = damaged(Step.MIDDLE_FRAME, Seen("s", sent)).payload
    assert len(broken) == len(sent)
    try:
        decode_frame(memoryview(broken))
        raise AssertionError("a flipped bit was not noticed")
    except FrameError:
        pass
    assert sent.startswith(damaged(Step.DECODING, Seen("s", sent)).payload)
    assert len(damaged(Step.DECODING, Seen("s", sent)).payload) < len(sent)
