"""Messages that a bandwidth probe receives: pings and trains of other sites' probes, replies to its own, what transfers measured,
and its workers' questions. The probe of a site shares out the links that leave it."""

from typing import Annotated

import msgspec
from msgspec import Meta

from prfaas.contracts.fields import Count, Id, Size, SubjectToken

EGRESS_HEADROOM = 0.04
"""Share of a link's egress budget kept for what is no KV: the probe's own trains, and what NATS puts around each frame."""


class Ping(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    source: SubjectToken


class Pong(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to Ping."""

    site: SubjectToken


class TrainPart(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One of several messages sent back to back. The last one asks for a reply, TrainReport."""

    train_id: Id
    padding: bytes


class TrainReport(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to the last TrainPart."""

    parts: Count
    """Number of parts that came, the last one included."""
    tail_bytes_per_s: Size = 0.0
    """Rate at which the last parts came; 0: too few came, or all at once."""


class TransferMeasured(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Prefill worker -> the probe of its own site."""

    destination: SubjectToken
    goodput_bytes_per_s: Size
    """Rate that the link delivered while it had something to deliver."""


class EgressAsked(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Prefill worker -> the probe of its own site: what it would send to one pd site. Answered by an EgressLease."""

    worker: SubjectToken
    destination: SubjectToken
    transfers: Annotated[int, Meta(ge=0, le=1 << 20)]
    """Transfers under way; 0: the worker only makes itself known."""
    wanted_bytes_per_s: Size
    held_bytes_per_s: Size | None
    """Rate allowed to it now, by its last lease or without one, or soon if no answer arrives; None: any rate."""
    delivered_bytes: Annotated[int, Meta(ge=0)] = 0
    """Bytes acknowledged on this link since the process began."""
    leaving: bool = False
    """The worker sends nothing any more, and its part is for the others at once."""
