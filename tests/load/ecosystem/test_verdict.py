"""Verdicts over the results of several clients."""

import json
import sys
from pathlib import Path

import pytest

from load.ecosystem.__main__ import faults, ratios_to, summary
from load.ecosystem.clients import ClientResult, Job, LoadClient, read_aiperf
from load.ecosystem.run import ClientError, run_client

GOOD = ClientResult(requests=9, errors=0, ttft_p50_s=0.2, ttft_p90_s=0.5, cached_share=0.1)


def test_errors_lost_requests_and_unseen_caches_are_faults() -> None:
    assert faults({"replay": GOOD, "aiperf": GOOD}, 9) == []
    for worse in (
        GOOD._replace(errors=1),
        GOOD._replace(requests=8),
        GOOD._replace(requests=10),
        GOOD._replace(cached_share=0.0),
    ):
        assert len(faults({"replay": GOOD, "aiperf": worse}, 9)) == 1


def test_the_last_row_that_guidellm_keeps_back_is_no_fault_and_a_second_one_is() -> None:
    assert faults({"guidellm": GOOD._replace(requests=8)}, 9) == []
    assert faults({"guidellm": GOOD._replace(requests=7)}, 9) == ["guidellm: 7 of 9 requests were answered, 0 failed."]


def test_ratios_are_to_our_replay() -> None:
    other = GOOD._replace(ttft_p50_s=0.21, ttft_p90_s=0.4)
    assert ratios_to(GOOD, other) == pytest.approx({"ttft_p50": 1.05, "ttft_p90": 0.8})
    found = summary({"replay": GOOD, "aiperf": other})
    assert found["aiperf_to_replay_ttft_p50"] == pytest.approx(1.05) and found["replay_requests"] == 9


def test_what_aiperf_leaves_out_is_none(tmp_path: Path) -> None:
    export = {"time_to_first_token": {"unit": "ms", "avg": 1.0, "p50": 200.0, "p90": 500.0}, "request_count": {"avg": 9.0}}
    (tmp_path / "profile_export_aiperf.json").write_text(json.dumps(export))
    assert read_aiperf(tmp_path) == GOOD._replace(cached_share=0.0)


def client(*arguments: str) -> LoadClient:
    return LoadClient(Path(sys.executable), lambda job: [sys.executable, "-c", *arguments], read_aiperf)


@pytest.mark.parametrize(
    ("program", "timeout_s", "says"),
    [
        ("import sys; sys.exit('no such model')", 60.0, "status 1: no such model"),
        ("pass", 60.0, "left no result that can be read"),
        ("import time; time.sleep(600)", 0.5, "was not over after 0.5 s"),
    ],
)
async def test_a_client_that_fails_is_said(program: str, timeout_s: float, says: str, tmp_path: Path) -> None:
    job = Job(url="", model="", trace=tmp_path, tokenizer=tmp_path, out=tmp_path)
    with pytest.raises(ClientError, match=says):
        await run_client(client(program), job, {}, timeout_s)
