"""What bandwidth probes hear from those of other sites: pings in the control account, trains in the bulk account."""

import msgspec


class Ping(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    source: str


class Pong(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    site: str


class TrainPart(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One of several messages sent back to back. The last one asks for a reply, TrainReport."""

    train_id: str
    padding: bytes


class TrainReport(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    parts: int
    """How many came, the last one included."""
