import pytest

from load.simulate.cases import cases
from load.simulate.contrast import (
    POLICIES,
    TRACES,
    Cell,
    Job,
    all_cells,
    measured,
    page_of,
    ratio_over_seeds,
    relative_load,
    run_job,
    summary,
)
from prfaas.replay.page_parts import render


def cell(goodput_req_s: float, *, trace: str = "azure", policy: str = "local_only", seed: int = 1) -> Cell:
    return Cell(
        trace=trace,
        policy=policy,
        seed=seed,
        threshold_tokens=1000,
        requests=10,
        goodput_req_s=goodput_req_s,
        kept_share=0.5,
        offloaded_share=0.25,
        egress_gbit_s=1.0,
        ttft_s=[0.1, 0.2],
    )


def test_a_ratio_that_is_the_same_with_every_seed_is_sure() -> None:
    found = ratio_over_seeds([cell(2.0), cell(4.0), cell(6.0)], [cell(1.0), cell(2.0), cell(3.0)])
    assert found is not None and (found.ratio, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_a_ratio_that_changes_with_the_seed_has_a_wide_interval() -> None:
    """Student's 97.5 % point with two degrees of freedom is 4.303; the logarithms' deviation is ln 2."""
    found = ratio_over_seeds([cell(1.0), cell(2.0), cell(4.0)], [cell(1.0)] * 3)
    assert found is not None
    assert found.ratio == pytest.approx(2.0) and found.high / found.ratio == pytest.approx(2 ** (4.3027 / 3**0.5), rel=1e-3)


def test_without_any_goodput_there_is_no_ratio() -> None:
    assert ratio_over_seeds([cell(1.0)], [cell(0.0)]) is None


def test_at_the_load_that_is_asked_for_short_prompts_keep_the_pd_site_that_busy() -> None:
    """Half of what it carries alone leaves all of Azure's requests in time, and twice as much does not."""
    at_one = cases(1.0, duration_s=120.0)["azure"]()
    shares = {}
    for busy in (0.5, 2.0):
        case = cases(relative_load(at_one, busy), duration_s=120.0)["azure"]()
        found = measured(case, "azure", "local_only", seed=1)
        assert found.offloaded_share == 0.0 and found.egress_gbit_s == 0.0
        shares[busy] = found.kept_share
    assert shares[0.5] == 1.0 and shares[2.0] < 0.9


@pytest.mark.slow
def test_cells_come_in_order_and_are_the_same_in_processes_of_their_own() -> None:
    found = list(all_cells(seeds=1, seconds=20.0, local_share=0.8))
    assert [(each.trace, each.policy) for each in found] == [(trace, policy) for trace in TRACES for policy in POLICIES]
    job = Job("azure", "threshold", 1, relative_load(cases(1.0, duration_s=20.0, seed=1)["azure"](), 0.8), 20.0)
    assert run_job(job) == next(each for each in found if (each.trace, each.policy) == ("azure", "threshold"))


def test_the_page_has_every_trace_and_policy() -> None:
    cells = [cell(1.0, trace=trace, policy=policy, seed=seed) for trace in TRACES for policy in POLICIES for seed in (1, 2)]
    page = render(page_of(cells, 0.8))
    assert all(name in page for name in (*TRACES.values(), *POLICIES))
    assert summary(cells)["agents_priced"] == pytest.approx(1.0)
