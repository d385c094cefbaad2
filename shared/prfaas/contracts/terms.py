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
    OFFLOADED = "offloaded"
    FALLBACK_TIMEOUT = "fallback_timeout"
    FALLBACK_CORRUPT = "fallback_corrupt"
    FALLBACK_BROKER = "fallback_broker"
    FALLBACK_PREFILL_FAILED = "fallback_prefill_failed"


class FinishReason(StrEnum):
    """Reason why a complete answer ends where it ends."""

    STOP = "stop"
    """An end-of-text token or a stop string came."""
    LENGTH = "length"
    """The answer has `max_tokens` tokens."""
