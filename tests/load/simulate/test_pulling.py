"""The comparison of pulls: arms of a seed get the same arrivals, and a verdict says no more than the seeds do."""

import math

import pytest

from load.simulate.pulling import (
    ARMS,
    LOADS,
    PAPER,
    RATES_GBIT_S,
    WITH,
    WITHOUT,
    Cell,
    Job,
    Ratio,
    goodput_req_s,
    p90_ttft_s,
    ratio,
    run,
    summary,
    table,
    verdict,
)


def cell(p90_ttft_s: float, *, arm: str = WITH, seed: int = 1, gbit_s: float = 1.0) -> Cell:
    return Cell(
        trace="reuse",
        gbit_s=gbit_s,
        arm=arm,
        seed=seed,
        requests=10,
        threshold_tokens=1000,
        p90_ttft_s=p90_ttft_s,
        goodput_req_s=1.0,
        kept_share=0.5,
        offloaded_share=0.5,
        cached_share=0.5,
        link_gb=1.0,
        pulled_gb=0.0,
        near_gb=0.0,
        pulls={},
    )


def test_seeds_are_compared_one_by_one() -> None:
    found = ratio([cell(2.0), cell(4.0), cell(6.0)], [cell(1.0), cell(2.0), cell(3.0)], p90_ttft_s)
    assert found == pytest.approx((2.0, 2.0, 2.0)) and verdict(found) == "pulls lose"
    assert ratio([cell(1.0)], [cell(math.inf)], p90_ttft_s) is None and verdict(None) == "not to be compared"
    assert verdict(Ratio(0.9, 0.8, 1.1)) == "no difference that is sure" and verdict(Ratio(0.9, 0.8, 0.95)) == "pulls win"
    assert ratio([cell(1.0)], [cell(2.0)], goodput_req_s) == (1.0, 0.0, math.inf), "one seed says nothing"


def test_the_summary_and_the_table_have_every_arm_side_by_side() -> None:
    cells = [
        cell(value, arm=arm, seed=seed, gbit_s=gbit_s)
        for gbit_s in RATES_GBIT_S
        for arm, value in ((PAPER, 4.0), (WITHOUT, 2.0), (WITH, 1.0))
        for seed in (1, 2)
    ]
    found = summary(cells)
    assert found["reuse_10g_p90_ttft_to_no_pulls"] == 0.5 and found["reuse_10g_p90_ttft_to_paper"] == 0.25
    assert found["reuse_100g_goodput_to_paper_low"] == 1.0 and not any(key.startswith("agentic") for key in found)
    assert table(cells, "reuse").row_count == len(RATES_GBIT_S) * len(ARMS)
    assert all(set(loads) == set(RATES_GBIT_S) for loads in LOADS.values())


def test_the_arms_differ_in_pulls_and_not_in_what_arrives() -> None:
    found = {arm: run(Job("reuse", 100.0, arm, 1, 60.0)) for arm in ARMS}
    assert len({each.requests for each in found.values()}) == 1 and found[WITH].requests > 50
    assert not found[WITHOUT].pulls and not found[PAPER].pulls
    assert found[WITHOUT].pulled_gb == found[PAPER].pulled_gb == 0.0
