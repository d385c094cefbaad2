"""The paper's short-term control in simulation: never worse than the static threshold, better where queues surge."""

import pytest

from load.simulate.arms import ARMS, PAPER, PAPER_LOOP, PAPER_QUEUE, simulated
from load.simulate.cases import cases
from load.simulate.curve_points import SLO, WARM_UP

DURATION_S = 600.0


def kept_share(case_name: str, load: float, arm: str) -> float:
    case = cases(load, duration_s=DURATION_S)[case_name]()
    (records,) = simulated(case, ARMS[arm]).records.values()
    due = [record for record in records if record.arrival.arrival_s >= WARM_UP * DURATION_S]
    return sum(map(SLO.kept, due)) / len(due)


@pytest.mark.parametrize(
    ("case_name", "load"),
    [("steady", 0.85), ("steady", 1.2), ("drop100", 1.05), ("reuse", 1.2)],
)
@pytest.mark.parametrize(("static", "loop"), [(PAPER, PAPER_LOOP), (PAPER_QUEUE, "paper loop + queue")])
def test_the_loop_loses_no_more_than_a_hundredth_to_the_static_threshold(
    case_name: str, load: float, static: str, loop: str
) -> None:
    assert kept_share(case_name, load, loop) >= kept_share(case_name, load, static) - 0.01
