"""Messages that a bandwidth probe receives: pings and trains of other sites' probes, replies to its own, what transfers measured,
and its workers' questions. The probe of a site shares out the links that leave it."""

import msgspec

EGRESS_HEADROOM = 0.04
"""Share of a link's egress budget kept for what is no KV: the probe's own trains, and what NATS puts around each frame."""


class Ping(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    source: str


class Pong(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to Ping."""

    site: str


class TrainPart(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One of several messages sent back to back. The last one asks for a reply, TrainReport."""

    train_id: str
    padding: bytes


class TrainReport(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to the last TrainPart."""

    parts: int
    """Number of parts that came, the last one included."""
    tail_bytes_per_s: float = 0.0
    """Rate at which the last parts came; 0: too few came, or all at once."""


class TransferMeasured(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Prefill worker -> the probe of its own site."""

    destination: str
    goodput_bytes_per_s: float
    """Rate that the link delivered while it had something to deliver."""


class EgressAsked(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Prefill worker -> the probe of its own site: what it would send to one pd site. Answered by an EgressLease."""

    worker: str
    destination: str
    transfers: int
    """Transfers under way; 0: the worker only makes itself known."""
    wanted_bytes_per_s: float
    held_bytes_per_s: float | None
    """Rate allowed to it now, by its last lease or without one, or soon if no answer arrives; None: any rate."""
    delivered_bytes: int = 0
    """Bytes acknowledged on this link since the process began."""
    leaving: bool = False
    """The worker sends nothing any more, and its part is for the others at once."""
