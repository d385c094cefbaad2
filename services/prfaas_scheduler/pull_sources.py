"""Workers from which others may pull a prompt's prefix, with the time that it takes."""

from collections.abc import Iterable
from typing import NamedTuple

from prfaas_scheduler.candidates import Candidate, Holder, PrefillSite, Source

OVERHEAD_S = 0.05
"""Time of a pull beside its bytes: questions, the holder's chunk, and the last look."""
UNKNOWN_BYTES_PER_S = 125e6
"""Rate within a site while no worker of it has pulled anything."""


class PullOptions(NamedTuple):
    """Pulls that prompts may be placed with."""

    enabled: bool
    sites: tuple[str, ...] = ()
    """Other sites from which the own one may pull."""


NO_PULLS = PullOptions(False)


def near_source(site: PrefillSite, holder: Holder, common_tokens: int, bytes_per_s: float) -> Source:
    """Returns a site's holder as a source for its other workers, which have `common_tokens`. `bytes_per_s`: 0 where unknown."""
    size_bytes = site.kv_bytes(holder.cached_tokens) - site.kv_bytes(common_tokens)
    pull_s = OVERHEAD_S + holder.read_s + size_bytes / (bytes_per_s or UNKNOWN_BYTES_PER_S)
    return Source(site.name, holder.worker, holder.cached_tokens, pull_s)


def far_source(remote: PrefillSite, holder: Holder, own: Candidate) -> Source | None:
    """Returns a holder in another site as a source for workers of the own one; None while its link is not known."""
    link = remote.link
    if link is None or not link.samples or link.goodput_bytes_per_s <= 0 or holder.cached_tokens <= own.common_tokens:
        return None
    size_bytes = own.site.kv_bytes(holder.cached_tokens) - own.site.kv_bytes(own.common_tokens)
    ship_s = (remote.backlog.kv_bytes + size_bytes) / link.goodput_bytes_per_s
    return Source(
        remote.name, holder.worker, holder.cached_tokens, OVERHEAD_S + holder.read_s + 2 * link.rtt_s + ship_s
    )  # fmt: skip


def best_of(sources: Iterable[Source]) -> Source | None:
    """Returns the one from which most can be had, and of several as good the one that is there first."""
    return min(sources, key=lambda source: (-source.tokens, source.pull_s, source.site), default=None)
