"""Frames sealed with AES-256-GCM: what a broker or a tap sees of one is its size, its time and its number.

A sealed frame has the size of a plain one. Its tag takes the checksum's place and covers every byte:

    0..3 `PKS1`   4..11 sender   12..15 position   16..47 the other fields, sealed   48.. payload, sealed   last 16: tag

The key is derived from a secret that only the two ends know, and from all that names the attempt: transfer, attempt, object,
tokens, fingerprint. So a frame of another attempt, transfer or object does not open. The nonce is sender and position. A sender
draws its 8 bytes at random, since a broker can hand one job to two workers, which then seal different bytes with one key.
"""

import secrets
import struct
import threading
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.wire import encode
from prfaas.kvcache.layout import LayerRange
from prfaas.transfer.frame import (
    HEADER_BYTES,
    Codec,
    FrameError,
    FrameHead,
    FrameKind,
    IncomingFrame,
    OutgoingFrame,
    decode_frame,
    encode_frame,
)

TAG_BYTES = 16
_MAGIC = b"PKS1"
_SENDER_BYTES = 8
_CLEAR = struct.Struct(f"<4s{_SENDER_BYTES}sI")
"""Magic, sender, position. The last two are the nonce."""
_FIELDS = struct.Struct("<BBxxIIIIIQ")
"""Kind, codec, layer, start, end, offset, raw bytes, transfer."""
_NONCE = slice(len(_MAGIC), _CLEAR.size)
assert _CLEAR.size + _FIELDS.size + TAG_BYTES == HEADER_BYTES


class FrameFormat(Protocol):
    """Format of one end's frames."""

    def encode(self, head: FrameHead, parts: tuple[memoryview, ...]) -> OutgoingFrame: ...

    def decode(self, message: memoryview) -> IncomingFrame:
        """Raises FrameError for anything that is not exactly what was encoded. May change `message`."""
        ...


class PlainFrames:
    """Frames with a checksum, in clear."""

    def encode(self, head: FrameHead, parts: tuple[memoryview, ...]) -> OutgoingFrame:
        return encode_frame(head, parts)

    def decode(self, message: memoryview) -> IncomingFrame:
        return decode_frame(message)


class SealedFrames:
    """Frames of one attempt, sealed. Each end has one of its own; `encode` may be called from several threads."""

    def __init__(self, transfer: KVTransfer, secret: bytes) -> None:
        names = (transfer.transfer_id, transfer.attempt, transfer.bucket, transfer.nuid, transfer.prefill_tokens)
        bound = encode((b"prfaas frames 1", *names, transfer.from_token, transfer.lossy, transfer.fingerprint))
        key = HKDF(hashes.SHA256(), 32, salt=None, info=bound).derive(secret)
        self._attempt = transfer.attempt
        self._algorithm = algorithms.AES(key)
        self._opener = AESGCM(key)
        self._own = secrets.token_bytes(_SENDER_BYTES)
        self._peer: bytes | None = None
        """The sender whose frame opened first. Those of another one are of no use: the two may have cut their KV differently."""
        self._sealed: set[int] = set()
        self._sealing = threading.Lock()

    def encode(self, head: FrameHead, parts: tuple[memoryview, ...]) -> OutgoingFrame:
        """Seals the parts into memory of the frame's own, in one pass. Raises RuntimeError for a position that had its frame."""
        with self._sealing:
            # Two frames under one nonce would give their bytes away, and the key of all tags.
            if head.position in self._sealed:
                raise RuntimeError(f"frame {head.position} of attempt {self._attempt} was sealed before")
            self._sealed.add(head.position)
        message = memoryview(bytearray(HEADER_BYTES + head.stored_bytes))
        _CLEAR.pack_into(message, 0, _MAGIC, self._own, head.position)
        encryptor = Cipher(self._algorithm, modes.GCM(bytes(message[_NONCE]))).encryptor()
        encryptor.authenticate_additional_data(_MAGIC)
        fields = _FIELDS.pack(head.kind, head.codec, *head.range, head.offset, head.raw_bytes, head.transfer_hash)
        at = _CLEAR.size
        pieces: tuple[bytes | memoryview, ...] = (fields, *parts)
        for part in pieces:
            # Room for one block more than the part is asked for: the tag's, at the end.
            at += encryptor.update_into(part, message[at:])
        encryptor.finalize()
        message[at:] = encryptor.tag
        return OutgoingFrame(head.kind, (message,), encryptor.tag, len(message), head.raw_bytes)

    def decode(self, message: memoryview) -> IncomingFrame:
        """Opens the frame in place: its payload is a view into `message`, or into a copy where that cannot be written."""
        if message.readonly:
            message = memoryview(bytearray(message))
        if len(message) < HEADER_BYTES:
            raise FrameError(f"a frame has at least {HEADER_BYTES} bytes, but {len(message)} came")
        magic, sender, position = _CLEAR.unpack_from(message)
        if magic != _MAGIC:
            raise FrameError(f"expected a sealed frame, but it begins with {magic!r}")
        if self._peer not in (None, sender):
            raise FrameError(f"frame {position} of attempt {self._attempt} is of another sender than those before it")
        tag = bytes(message[-TAG_BYTES:])
        try:
            self._opener.decrypt_into(bytes(message[_NONCE]), message[_CLEAR.size :], _MAGIC, message[_CLEAR.size : -TAG_BYTES])
        except InvalidTag:
            raise FrameError(
                f"frame {position} of attempt {self._attempt} does not match its tag ({len(message)} bytes)"
            ) from None
        self._peer = sender
        kind, codec, layer, start, end, offset, raw, transfer = _FIELDS.unpack_from(message, _CLEAR.size)
        payload = message[_CLEAR.size + _FIELDS.size : -TAG_BYTES]
        try:
            head = FrameHead(
                FrameKind(kind), Codec(codec), self._attempt, position, LayerRange(layer, start, end), offset,
                len(payload), raw, transfer,
            )  # fmt: skip
        except ValueError as error:
            raise FrameError(f"frame {position} of attempt {self._attempt}: {error}") from error
        return IncomingFrame(head, payload, tag)


def frames_of(transfer: KVTransfer, secret: bytes | None) -> FrameFormat:
    """Returns the format that both ends of an attempt use: sealed where they share a secret."""
    return PlainFrames() if secret is None else SealedFrames(transfer, secret)
