"""Words that several messages use."""

from enum import StrEnum


class Role(StrEnum):
    """Work that a worker does."""

    PREFILL = "prefill"
    DECODE = "decode"


class Outcome(StrEnum):
    """Reason why a request ran where it ran, or how that changed."""

    LOCAL_SHORT = "local_short"
    LOCAL_POLICY = "local_policy"
    LOCAL_NO_REMOTE = "local_no_remote"
    LOCAL_LINK_SCARCE = "local_link_scarce"
    LOCAL_NO_SCHEDULER = "local_no_scheduler"
    OFFLOADED = "offloaded"
    FALLBACK_TIMEOUT = "fallback_timeout"
    FALLBACK_CORRUPT = "fallback_corrupt"
    FALLBACK_BROKER = "fallback_broker"
    FALLBACK_PREFILL_FAILED = "fallback_prefill_failed"


class Detour(StrEnum):
    """Something that went wrong on a request's way and that it got past."""

    WAITED_FOR_PLACE = "waited_for_place"
    """No decode worker took it at first."""
    WAITED_FOR_SCHEDULER = "waited_for_scheduler"
    """No scheduler answered at first."""
    PLACED_BY_GATEWAY = "placed_by_gateway"
    """No scheduler answered for so long that the gateway placed it itself."""
    REFUSED = "refused"
    """A decode worker did not take it, and another one did."""
    UNANSWERED = "unanswered"
    """A decode worker did not say whether it had begun, and another one did."""
    MOVED = "moved"
    """Its decode worker was lost, and another one went on with the answer."""
    EVENTS_LOST = "events_lost"
    """Part of its answer was lost on the way, and was computed again."""
    ANOTHER_ATTEMPT = "another_attempt"
    """A prefill or its transfer failed, and another one did not."""


class FinishReason(StrEnum):
    """Reason why a complete answer ends where it ends."""

    STOP = "stop"
    """An end-of-text token or a stop string came."""
    LENGTH = "length"
    """The answer has `max_tokens` tokens."""
