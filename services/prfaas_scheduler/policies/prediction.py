"""Prediction of a prompt's time to first token at a site, from its queue, its observed speed and its link.

    local   wait + T(l)
    remote  max(wait + T(l), (KV bytes that the link owes + S_kv(l)) / goodput) + RTT

Shipping overlaps prefill, so the slower of the two counts.
"""

from typing import NamedTuple

from prfaas_scheduler.candidates import Candidate


class Predicted(NamedTuple):
    candidate: Candidate
    ttft_s: float
    by_link: bool = False
    """True if the link, not the prefill, is the slower of the two."""


def predict_local(local: Candidate) -> Predicted | None:
    """Prediction for the pd site itself; None while its speed is not known."""
    prefill_s = local.route.prefill_s
    return None if prefill_s is None else Predicted(local, prefill_s)


def predict_remote(remote: Candidate) -> Predicted | None:
    """Prediction for a remote site; None while its speed or its link is not known."""
    prefill_s, link = remote.route.prefill_s, remote.site.link
    if prefill_s is None or link is None or not link.samples or link.goodput_bytes_per_s <= 0:
        return None
    ship_s = (remote.site.backlog.kv_bytes + remote.ship_bytes) / link.goodput_bytes_per_s
    return Predicted(remote, max(prefill_s, ship_s) + link.rtt_s, ship_s > prefill_s)
