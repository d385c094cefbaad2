"""What a bandwidth probe hears: pings and trains of other sites' probes, what its own site's transfers measured, and who wants to
send. The probe of a site shares out the links that leave it."""

import msgspec

LEASE_S = 1.0
"""How long a lease holds, from when it was asked for."""
ALONE_AFTER_S = 2.5 * LEASE_S
"""When a worker that gets no answer goes on with its own part. Whoever shares the link out has noticed its silence after LEASE_S,
and another LEASE_S later every lease is over that counted on it; the rest is for a question that was under way for long."""
EGRESS_HEADROOM = 0.04
"""Of a link's egress budget, for what is no KV: the probe's own trains, and what NATS puts around each frame."""


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
    tail_bytes_per_s: float = 0.0
    """At which the last of them came; 0: too few or at once."""


class TransferMeasured(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Prefill worker -> the probe of its own site."""

    destination: str
    goodput_bytes_per_s: float
    """What the link delivered while it had something to deliver."""


class EgressAsked(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Prefill worker -> the probe of its own site: what it would send to one pd site. Answered by an EgressLease."""

    worker: str
    destination: str
    transfers: int
    """Under way; 0: it only wants to be known."""
    wanted_bytes_per_s: float
    held_bytes_per_s: float | None
    """What it may send now, by its last lease or without one, or comes to send if no answer arrives; None: anything."""
    delivered_bytes: int = 0
    """Acknowledged on this link since the process began."""
    leaving: bool = False
    """It sends nothing any more, and its part is for the others at once."""


class EgressLease(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What one process may send on one link for the next LEASE_S seconds."""

    bytes_per_s: float | None
    """None: the link has no budget."""
    alone_bytes_per_s: float | None
    """What it may send once nobody has answered for ALONE_AFTER_S: its equal part of the budget. None: anything."""
    share: float
    """Of the link's window, above 0 to 1."""
    ask_again_s: float
    goodput_bytes_per_s: float | None = None
    """Of the whole link, as the probe knows it."""
    rtt_s: float | None = None
