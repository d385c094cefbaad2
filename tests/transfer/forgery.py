"""Frames with right checksums that do not belong where they come: replayed, of others, or by someone who knows the format."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from prfaas.contracts.codes import FailureCode
from prfaas.kvcache.layout import KVLayout, LayerKind, LayerRange
from prfaas.transfer import frame as kv
from tests.kvcache.kv import rewrite

OPENINGS = (
    "opening of another model",
    "opening of another layout",
    "opening of another transfer",
    "opening of another length",
    "opening after another prefix",
    "opening that does not decode",
    "data instead of the opening",
)
DATA = (
    "another layer",
    "a layer that is none",
    "a later range",
    "an earlier range",
    "a longer range",
    "a range past the end",
    "an empty range",
    "fewer bytes than it says",
    "fewer bytes than its range has",
    "planes that are none",
    "8 bits",
    "a second opening",
    "an early manifest",
    "an abort",
)
CLOSING = (
    "manifest of another model",
    "manifest of other bytes",
    "manifest of fewer frames",
    "manifest of fewer bytes",
    "manifest of another transfer",
    "manifest that does not decode",
)


class Forgery(NamedTuple):
    message: bytes
    code: FailureCode = FailureCode.CORRUPT


class Forger:
    def __init__(
        self, layout: KVLayout, messages: list[bytes], other_messages: list[list[bytes]], position: int, raw_bytes: int
    ) -> None:
        """Forgeries for a receiver that has accepted the first `position` of `messages`, which carried `raw_bytes`."""
        self._layout = layout
        self._messages = messages
        self._others = other_messages
        self._position = position
        self._raw_bytes = raw_bytes

    def foreign(self, which: int) -> Iterator[bytes]:
        """Frames of an older attempt, of another transfer, and this attempt's earlier ones with other bytes."""
        for messages in self._others:
            yield messages[min(self._position + which % 3, len(messages) - 1)]
        if self._position:
            message = self._messages[which % self._position]
            yield rewrite(message, bytes(len(kv.decode_frame(memoryview(message)).payload)))

    def other_bytes(self) -> bytes:
        true = self._messages[self._position]
        return rewrite(true, bytes(byte ^ 1 for byte in kv.decode_frame(memoryview(true)).payload))

    def forgeries(self) -> Iterator[tuple[str, Forgery]]:
        """All that can be put in the place of the next frame."""
        last = len(self._messages) - 1
        kinds: tuple[str, ...] = DATA
        forge: Callable[[str], Forgery | None] = self._data
        if not self._position:
            kinds, forge = OPENINGS, self._opening
        elif self._position == last:
            kinds, forge = CLOSING, self._manifest
        for kind in kinds:
            if (forgery := forge(kind)) is not None:
                yield kind, forgery

    def _opening(self, kind: str) -> Forgery:
        true = self._messages[0]
        if kind == "data instead of the opening":
            return Forgery(rewrite(self._messages[1], position=0))
        if kind == "opening that does not decode":
            return Forgery(rewrite(true, b"\xc1"))
        opening = msgspec.msgpack.decode(kv.decode_frame(memoryview(true)).payload, type=kv.TransferOpening)
        forgeries: dict[str, tuple[FailureCode, dict[str, Any]]] = {
            "opening of another model": (FailureCode.FINGERPRINT, {"fingerprint": "other"}),
            "opening of another layout": (
                FailureCode.FINGERPRINT,
                {"layout": msgspec.structs.replace(opening.layout, layers=opening.layout.layers[:-1])},
            ),
            "opening of another transfer": (FailureCode.CORRUPT, {"transfer_id": "other"}),
            "opening of another length": (FailureCode.CORRUPT, {"prefill_tokens": opening.prefill_tokens + 1}),
            "opening after another prefix": (FailureCode.CORRUPT, {"from_token": opening.from_token + 1}),
        }
        code, changes = forgeries[kind]
        return Forgery(rewrite(true, msgspec.msgpack.encode(msgspec.structs.replace(opening, **changes))), code=code)

    def _data(self, kind: str) -> Forgery | None:
        true = self._messages[self._position]
        frame = kv.decode_frame(memoryview(true))
        head, payload = frame.head, bytes(frame.payload)
        layer, start, end = head.range
        recurrent = self._layout.layers[layer].kind is LayerKind.RECURRENT
        layers = len(self._layout.layers)
        match kind:
            case "another layer":
                # Not as a part of a recurrent state: those may be cut anywhere, so that only the manifest could tell.
                other = next(
                    other
                    for other, spec in enumerate(self._layout.layers)
                    if other != layer and spec.kind is not LayerKind.RECURRENT
                )
                return Forgery(rewrite(true, range=LayerRange(other, start, end)))
            case "a layer that is none":
                return Forgery(rewrite(true, range=LayerRange(layers, start, end)))
            case "a later range" if recurrent:
                return Forgery(rewrite(true, offset=head.offset + 1))
            case "a later range":
                return Forgery(rewrite(true, range=LayerRange(layer, start + 1, end + 1)))
            case "an earlier range" if recurrent:
                return Forgery(rewrite(true, range=LayerRange(layer, 0, end - 1)))
            case "an earlier range" if start:
                return Forgery(rewrite(true, range=LayerRange(layer, start - 1, end - 1)))
            case "a longer range" if not recurrent:
                return Forgery(rewrite(true, range=LayerRange(layer, start, end + 1)))
            case "a range past the end":
                return Forgery(rewrite(true, payload * 100, range=LayerRange(layer, start, start + 100 * (end - start)),
                                       raw_bytes=100 * len(payload)))  # fmt: skip
            case "an empty range":
                return Forgery(rewrite(true, b"", range=LayerRange(layer, start, start), raw_bytes=0))
            case "fewer bytes than it says":
                return Forgery(rewrite(true, payload[:-2]))
            case "fewer bytes than its range has" if not recurrent:
                return Forgery(rewrite(true, payload[:-2], raw_bytes=len(payload) - 2))
            case "planes that are none":
                return Forgery(rewrite(true, codec=kv.Codec.PLANES))
            case "8 bits":
                return Forgery(rewrite(true, codec=kv.Codec.INT8), code=FailureCode.LOSSY)
            case "a second opening":
                return Forgery(rewrite(self._messages[0], position=self._position))
            case "an early manifest":
                return Forgery(self._closing(frames=self._position, raw_bytes=self._raw_bytes))
            case "an abort":
                return Forgery(rewrite(true, b"no", kind=kv.FrameKind.ABORT), code=FailureCode.ABORTED)
        return None

    def _manifest(self, kind: str) -> Forgery:
        match kind:
            case "manifest of another model":
                return Forgery(self._closing(fingerprint="other"), code=FailureCode.FINGERPRINT)
            case "manifest of other bytes":
                return Forgery(self._closing(digest=bytes(kv.DIGEST_BYTES)))
            case "manifest of fewer frames":
                return Forgery(self._closing(frames=self._position - 1))
            case "manifest of fewer bytes":
                return Forgery(self._closing(raw_bytes=self._raw_bytes - 1))
            case "manifest of another transfer":
                theirs = kv.decode_frame(memoryview(self._others[1][-1]))
                return Forgery(rewrite(self._messages[-1], bytes(theirs.payload)))
        return Forgery(rewrite(self._messages[-1], b"\xc1"))

    def _closing(self, **changes: object) -> bytes:
        """A manifest that is right for what has come, but for `changes`."""
        manifest = msgspec.msgpack.decode(kv.decode_frame(memoryview(self._messages[-1])).payload, type=kv.Manifest)
        digests = [kv.decode_frame(memoryview(message)).digest for message in self._messages[: self._position]]
        right = msgspec.structs.replace(manifest, digest=kv.manifest_digest(digests))
        changed = msgspec.msgpack.encode(msgspec.structs.replace(right, **changes))
        return rewrite(self._messages[-1], changed, position=self._position)
