import json
from pathlib import Path

import pytest

from prfaas.cli.__main__ import main

DEPLOYMENT = Path(__file__).parents[2] / "examples/own_deployment.toml"


def test_the_deployment_is_planned_and_pays(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(DEPLOYMENT), "--json"]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert {site["site"] for site in plan["sites"]} == {"mountains", "city"}
    assert plan["throughput_req_s"] > 0
    (link,) = plan["links"]
    assert 0 < link["egress_gbit_s"] <= link["gbit_s"] == 10
    assert main(["plan", str(DEPLOYMENT)]) == 0
    assert "Does offloading pay?" in capfd.readouterr().out
