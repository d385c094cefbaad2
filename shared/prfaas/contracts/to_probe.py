"""What a bandwidth probe hears: pings and trains of other sites' probes, and what its own site's transfers measured."""

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


class TransferMeasured(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Prefill worker -> the probe of its own site."""

    destination: str
    goodput_bytes_per_s: float
    """What the link delivered while it had something to deliver."""
