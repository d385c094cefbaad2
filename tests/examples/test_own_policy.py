import pytest

from examples.own_policy import ShortestWait, compare
from load.simulate.paper import FAR, HOME


def test_a_policy_of_ones_own_runs_beside_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    reports = compare(seconds=60.0)
    assert set(reports) == {"threshold", ShortestWait.name}
    for report in reports.values():
        assert report.errors == {} and report.kept_share > 0.5
        assert set(report.prefill_sites) == {HOME, FAR}
    printed = capsys.readouterr().out
    assert "shortest_wait" in printed and "threshold" in printed
