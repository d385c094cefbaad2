"""Arms under disturbances: each one reaches what it is said to disturb, and requests are judged by the right objective."""

import pytest

from load.simulate.arms import ARMS, NONE, OURS, PAPER, Disturbance, simulated
from load.simulate.cases import cases
from load.simulate.robustness import COMPARED, DISTURBANCES, Outcome, measure, table

SECONDS = 120.0


def outcome(disturbance: str, arm: str = OURS, load: float = 0.9) -> Outcome:
    return measure(cases(load, duration_s=SECONDS)["drop100"](), load, 1, disturbance, arm)


@pytest.mark.parametrize("disturbance", [name for name in DISTURBANCES if name != "none"])
def test_each_disturbance_changes_what_requests_get(disturbance: str) -> None:
    undisturbed, disturbed = outcome("none"), outcome(disturbance)
    assert undisturbed.requests == disturbed.requests
    assert (undisturbed.ttft_p50_s, undisturbed.ttft_p99_s) != (disturbed.ttft_p50_s, disturbed.ttft_p99_s)


def test_a_fixed_threshold_hears_of_no_objective_and_no_link() -> None:
    undisturbed = outcome("none", PAPER)
    for name, disturbance in DISTURBANCES.items():
        if (disturbance.noise, disturbance.straggler) == (0.0, 1.0):
            assert outcome(name, PAPER).ttft_p99_s == undisturbed.ttft_p99_s


def test_a_straggler_holds_its_worker_longer_and_no_other() -> None:
    case = cases(0.3, duration_s=SECONDS)["steady"]()
    alone, slow = (simulated(case, ARMS[PAPER], disturbance=each).prefill_busy_s for each in (NONE, Disturbance(straggler=3.0)))
    assert all(alone[site] < slow[site] < 3 * alone[site] for site in alone)


def test_the_table_has_a_row_per_disturbance_and_a_column_per_arm() -> None:
    made = [outcome(name, arm, load=0.3) for name in DISTURBANCES for arm in COMPARED]
    shown = table(made, "drop100", 0.3)
    assert shown.row_count == len(DISTURBANCES) and len(shown.columns) == 1 + len(COMPARED)
