"""A site's prefill workers in the terms of the paper's equations, from what is observed."""

from math import inf

from prfaas.capacity.threshold import PrefillStage
from prfaas_scheduler.candidates import PrefillSite


def local_stage(site: PrefillSite) -> PrefillStage | None:
    """The pd site's own workers, whose KV crosses no link; None while their speed is not known."""
    return _stage(site, inf)


def remote_stage(site: PrefillSite) -> PrefillStage | None:
    """A remote site's workers; None while their speed or their link is not known: such a link counts as scarce."""
    if site.link is None or not site.link.samples:
        return None
    return _stage(site, site.link.goodput_bytes_per_s)


def _stage(site: PrefillSite, egress_bytes_per_s: float) -> PrefillStage | None:
    if not site.prefill_points or egress_bytes_per_s <= 0:
        return None
    return PrefillStage(site.workers, lambda tokens: site.work_s(tokens) or 0.0, site.kv_bytes, egress_bytes_per_s)
