"""A site's prefill workers in the terms of the paper's equations, from what is observed."""

from math import inf

from prfaas.capacity.observed import interpolated
from prfaas.capacity.threshold import PrefillStage
from prfaas.contracts.to_scheduler import LinkEstimate
from prfaas_scheduler.candidates import PrefillSite

UNSURE_SHARE = 0.7
"""Share of the goodput that counts while its estimate is not sure at all."""
OLD_S = 30.0
"""Age from which an estimate of goodput counts as not sure."""
RESENT_LOSS, MAX_RESENT_LOSS = 10.0, 0.5
"""Loss of goodput for each part of the segments that is sent again, and its bound: TCP slows down more than it resends."""


def local_stage(site: PrefillSite) -> PrefillStage | None:
    """The pd site's own workers, whose KV crosses no link; None while their speed is not known."""
    return _stage(site, inf)


def remote_stage(site: PrefillSite) -> PrefillStage | None:
    """A remote site's workers; None while their speed or their link is not known: such a link counts as scarce."""
    if site.link is None or not site.link.samples:
        return None
    return _stage(site, usable_bytes_per_s(site.link))


def usable_bytes_per_s(link: LinkEstimate) -> float:
    """Goodput that a plan may count on: less where the estimate is unsure or old, or where the link resends."""
    sure = UNSURE_SHARE + (1 - UNSURE_SHARE) * link.confidence * (link.age_s <= OLD_S)
    resent = min(MAX_RESENT_LOSS, RESENT_LOSS * (link.retransmit_share or 0.0))
    return link.goodput_bytes_per_s * sure * (1 - resent)


def _stage(site: PrefillSite, egress_bytes_per_s: float) -> PrefillStage | None:
    if not site.prefill_points or egress_bytes_per_s <= 0:
        return None
    times, sizes = site.prefill_points, site.kv_points
    return PrefillStage(
        site.workers,
        lambda tokens: interpolated(times, tokens) or 0.0,
        lambda tokens: interpolated(sizes, tokens) or 0.0,
        egress_bytes_per_s,
    )
