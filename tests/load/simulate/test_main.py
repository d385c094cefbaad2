import pytest

from load.report import Slo
from load.simulate.__main__ import TPOT_S, TPOT_SLACK, search
from load.simulate.paper import DEPLOYMENTS, mean_work_capacity


@pytest.mark.parametrize("name", ["local_only", "threshold"])
def test_the_sustained_rate_is_near_what_the_stations_can_do(name: str) -> None:
    deployment = DEPLOYMENTS[name]
    found = search(deployment, Slo(ttft_s=30.0, tpot_s=TPOT_S * TPOT_SLACK), duration_s=200.0, seed=2)
    assert found.rate_req_s == pytest.approx(mean_work_capacity(deployment).req_s, rel=0.15)
    assert found.at is not None and found.at.kept_share >= 0.9
