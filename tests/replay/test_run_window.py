"""The window that a run's figures are of."""

import json
import math
from pathlib import Path

import pytest

from prfaas.replay.client import Target
from prfaas.replay.rows import RequestRow
from prfaas.replay.run import Plan, end_of
from prfaas.replay.shaping import Shape
from prfaas.replay.synthetic import Synthetic
from prfaas.replay.target_check import PromptPlan
from prfaas.replay.workload import Workload, surveyed
from tests.replay.test_summary import row


def plan(
    tmp_path: Path, stamps_s: list[float], *, duration_s: float | None = None, users: int = 0, warm_up_s: float = 0.0
) -> Plan:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"arrival_s": at, "input_tokens": 9, "output_tokens": 1}) + "\n" for at in stamps_s))
    workload, survey = surveyed(Workload(path=str(path), shape=Shape(duration_s=duration_s), users=users))
    prompts = PromptPlan(kind="tokens", checked="")
    return Plan(
        title="t", target=Target(url="", model=""), workload=workload, survey=survey, prompts=prompts, warm_up_s=warm_up_s
    )


def rows(*due_s: float) -> list[RequestRow]:
    return [row(place, at, 0.5, tokens=1) for place, at in enumerate(due_s)]


@pytest.mark.parametrize(
    ("stamps_s", "duration_s", "goes_on", "end_s"),
    [
        ([0.0, 10.0, 20.0], None, False, 20.0),
        ([0.0, 10.0, 20.0], 15.0, True, 15.0),
        ([0.0, 10.0, 20.0], 600.0, False, 20.0),
        ([0.0, 10.0, 20.0], 20.0, True, 20.0),
        ([0.0], None, False, 0.5),
        ([5.0, 5.0, 5.5], None, False, 1.0),
    ],
)
def test_a_duration_is_the_end_only_where_the_trace_lasts_so_long(
    stamps_s: list[float], duration_s: float | None, goes_on: bool, end_s: float, tmp_path: Path
) -> None:
    made = plan(tmp_path, stamps_s, duration_s=duration_s)
    assert made.survey.goes_on is goes_on
    due_s = [at - stamps_s[0] for at in stamps_s if at - stamps_s[0] < (duration_s or math.inf)]
    assert end_of(made, rows(*due_s), due_s[-1] + 0.5) == pytest.approx(end_s)
    assert end_of(made, rows(*due_s), due_s[-1] + 0.5) >= due_s[-1]


@pytest.mark.parametrize(("over_s", "end_s"), [(30.2, 30.0), (12.0, 11.0)])
def test_users_go_on_until_the_end_unless_they_run_out_of_sessions(over_s: float, end_s: float, tmp_path: Path) -> None:
    made = plan(tmp_path, [0.0, 1.0], duration_s=30.0, users=2)
    assert end_of(made, rows(0.0, 11.0), over_s) == pytest.approx(end_s)


def test_synthetic_traffic_lasts_as_long_as_it_is_made_for(tmp_path: Path) -> None:
    synthetic = Synthetic(lengths="fixed:tokens=9", output_tokens=1, rate_req_s=1.0, duration_s=50.0)
    workload, survey = surveyed(Workload(synthetic=synthetic, shape=Shape(duration_s=50.0)))
    made = plan(tmp_path, [0.0])
    whole = Plan(title="t", target=made.target, workload=workload, survey=survey, prompts=made.prompts)
    assert end_of(whole, rows(0.0, 47.0), 47.5) == 50.0
