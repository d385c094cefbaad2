"""docs/plan.md quotes figures: they must be what the command prints."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prfaas.cli.__main__ import main

PAGE = Path(__file__).parents[2] / "docs/plan.md"


@pytest.fixture
def found(capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["plan", "--case", "paper", "--json"]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert isinstance(plan, dict)
    return plan


def test_the_table_of_the_page_is_what_the_command_prints(found: dict[str, Any]) -> None:
    ours, table_5 = found["arms"], found["table_5_only"]
    expected = {
        "t (tokens)": [f"{arms['prfaas']['threshold_tokens']:,.0f}" for arms in (ours, table_5)],
        "offloaded share p": [f"{arms['prfaas']['offloaded_share']:.3f}" for arms in (ours, table_5)],
        "throughput (req/s)": [f"{arms['prfaas']['throughput_req_s']:.2f}" for arms in (ours, table_5)],
    }
    over = {
        "over homogeneous PD": "homogeneous",
        "over naive heterogeneous PD": "naive",
        "over a split by capacity, blind to length": "balanced",
    }
    for label, arm in over.items():
        expected[label] = [
            f"{arms['prfaas']['throughput_req_s'] / arms[arm]['throughput_req_s']:.2f}" for arms in (ours, table_5)
        ]
    rows = {row[0]: row[2:] for row in (re.split(r"\s*\|\s*", line.strip("| ")) for line in PAGE.read_text().splitlines())}
    assert {label: rows[label] for label in expected} == expected
