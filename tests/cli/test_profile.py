"""`prfaas profile` with the real engine, and `prfaas plan` with what it wrote."""

import json
from pathlib import Path

import pytest

from prfaas.capacity.profiles import Profile
from prfaas.cli.__main__ import main
from prfaas.engine.factory import EngineConfig, build_engine

pytestmark = pytest.mark.slow

DEPLOYMENT = """
[traffic]
lognormal = { mu = 4.0, sigma = 1.0, low-tokens = 8, high-tokens = 512 }
output-tokens = 8
[slo]
decode-tokens-per-s = 0.01
[[profile]]
name = "mine"
file = "mine.json"
[[site]]
name = "west"
kind = "prfaas"
instances = 1
profile = "mine"
[[site]]
name = "east"
kind = "pd"
instances = 2
profile = "mine"
[[link]]
source = "west"
destination = "east"
gbit-s = 10
"""


def test_a_measured_profile_is_one_that_plan_can_use(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.json"
    assert main(["profile", "--lengths", "16,96", "--batches", "2,1", "--context", "16", "--out", str(out)]) == 0
    printed = capfd.readouterr().out
    assert "prefill" in printed and "decode" in printed and str(out) in printed
    profile = Profile.load(out)
    layout = build_engine(EngineConfig()).describe().layout
    assert [(point.tokens, point.kv_bytes) for point in profile.prefill] == [(n, layout.total_bytes(n)) for n in (16, 96)]
    assert [point.batch for point in profile.decode] == [1, 2]
    assert "gemma-3-270m, bfloat16, threads 1" in profile.source

    (tmp_path / "mine.toml").write_text(DEPLOYMENT)
    assert main(["plan", str(tmp_path / "mine.toml"), "--json"]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["throughput_req_s"] > 0
    (decode,) = [arm["pd_decode_req_s"] for name, arm in plan["arms"].items() if name == "prfaas"]
    assert decode == pytest.approx(2 / profile.step_s(2) / 8), "Eq 5 with the step that was measured"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lengths", "64"], "at least two lengths"),
        (["--model", "unheard-of"], "'unheard-of' is unknown"),
        (["--lengths", "64,10000000"], "exceeds the model's context"),
    ],
)
def test_what_cannot_be_measured_is_said(
    arguments: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.json"
    assert main(["profile", *arguments, "--out", str(out)]) == 2
    assert message in capfd.readouterr().err
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--out", "/nowhere/at/all.json"]) == 2
    assert "its directory does not exist" in capfd.readouterr().err
