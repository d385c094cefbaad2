"""Prefills that have been placed and are not over."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedPrefill:
    """A prefill in a site's backlog, with enough to place the same prompt again elsewhere."""

    site: str
    model: str
    fingerprint: str
    tokens: int
    """Tokens to prefill."""
    expires_at: float
    """Moment at which the placement is over, reported or not."""
    decoder: str = ""
    """Key of the decode worker that has the request."""
