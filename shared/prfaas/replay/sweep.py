"""A load sweep: one run per rate, until the SLO breaks."""

from collections.abc import Sequence

import msgspec

from prfaas.replay.results import Run
from prfaas.replay.summary import Distribution

MAX_RATES = 30


class SweepPoint(msgspec.Struct, frozen=True, kw_only=True):
    rate_req_s: float
    """Rate that was asked for."""
    offered_req_s: float
    answered_req_s: float
    goodput_req_s: float | None
    good_share: float | None
    ttft: Distribution | None
    errors: int
    result: str
    """File of the run's result, beside the sweep's."""


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "prfaas.sweep"
    schema_version: int = 1
    title: str
    points: list[SweepPoint]
    sustained_req_s: float | None
    """Highest rate that kept the SLO; None where none did, or there is no SLO."""


def point_of(run: Run, rate_req_s: float, result: str) -> SweepPoint:
    summary = run.summary
    return SweepPoint(
        rate_req_s=rate_req_s,
        offered_req_s=summary.offered_request_throughput,
        answered_req_s=summary.request_throughput,
        goodput_req_s=summary.goodput,
        good_share=summary.good_request_fraction,
        ttft=summary.time_to_first_token_s,
        errors=summary.error_request_count,
        result=result,
    )


def broke(run: Run) -> bool:
    """True when fewer requests kept the SLO than it asks for. Without one, when any request failed."""
    share = run.summary.good_request_fraction
    return run.summary.error_request_count > 0 if share is None else share < run.setup.slo.share


def rising(first_req_s: float, factor: float) -> list[float]:
    return [first_req_s * factor**step for step in range(MAX_RATES)]


def sweep_of(title: str, runs: Sequence[tuple[float, Run]], points: list[SweepPoint]) -> Sweep:
    held = [rate for rate, run in runs if run.summary.good_request_fraction is not None and not broke(run)]
    return Sweep(title=title, points=points, sustained_req_s=max(held, default=None))
