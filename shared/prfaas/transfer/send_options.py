"""Settings of a sender, and its report in the end."""

import msgspec


class SendOptions(msgspec.Struct, frozen=True, kw_only=True):
    timeout_s: float
    """Bound of the whole transfer."""
    tenant: str = ""
    """Tenants share the link evenly, and so do the transfers of one."""
    background: bool = False
    """No request waits for it: it is sent while the link has nothing else to send."""
    idle_timeout_s: float = 10.0
    """Bound of a standstill of the link."""
    buffer_bytes: int = 64 << 20
    """KV that `put` may run ahead of the link."""
    object_digest: bool = True
    """Makes the frames an object that other clients can read; costs a SHA-256 over all bytes."""
    lossless: bool = True
    """Compresses frames while the link is slow enough for it to pay."""
    lossy: bool = False
    """Cuts frames to 8 bits then, if the transfer allows it too."""
    secret: bytes | None = None
    """Secret that the receiver shares, with which frames are sealed; None: they go in clear."""


class SendReport(msgspec.Struct, frozen=True, kw_only=True):
    bytes: int
    """Bytes as sent, with headers and manifest."""
    raw_bytes: int
    """Canonical KV bytes."""
    frames: int
    resent_frames: int
    lossy_frames: int
    """Frames, counted in `frames`, that were sent in 8 bits."""
    duration_s: float
    """First frame on the wire to the last acknowledgement."""
    blocked_s: float
    """Time for which `put` made the engine wait for the link."""
    object_complete: bool
    """True when the object's meta message was stored; not when the receiver was done with it sooner."""

    @property
    def goodput_bytes_per_s(self) -> float:
        return self.bytes / self.duration_s if self.duration_s > 0 else 0.0
