"""`prfaas replay`, `report` and `sweep` as a user runs them, against a stub server."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from prfaas.cli.__main__ import main
from prfaas.replay.results import load_run
from tests.replay.stub_server import Stub, stub_in_thread


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_in_thread() as stub:
        yield stub


def trace(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mooncake(path: Path, count: int, every_ms: int = 20) -> Path:
    rows = [
        {"timestamp": place * every_ms, "input_length": 600, "output_length": 4, "hash_ids": [0, 100 + place]}
        for place in range(count)
    ]
    return trace(path, rows)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_a_trace_becomes_a_result_and_a_report(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mooncake(tmp_path / "trace.jsonl", 12)
    assert run("replay", path, "--target", stub.url, "--out", tmp_path / "out", "--slo-ttft", 100, "--warm-up", 0.05) == 0
    found = load_run(tmp_path / "out" / "report.json")
    assert [row.index for row in found.requests] == list(range(12))
    assert {(row.input_tokens, row.output_tokens, row.error, row.prefill_site) for row in found.requests} == {(600, 4, "", "far")}
    assert found.summary.request_count == 9, "three are due within the warm-up"
    assert found.summary.good_request_fraction == 1.0
    ids = [header["x-request-id"] for header in stub.headers if "x-request-id" in header]
    assert sorted(ids) == sorted(row.request_id for row in found.requests)
    # Equal block ids gave equal tokens, all others differ.
    prompts = [body["prompt"] for body in stub.bodies if len(body["prompt"]) == 600]
    assert len({tuple(prompt[:512]) for prompt in prompts}) == 1 and len({tuple(prompt[512:]) for prompt in prompts}) == 12
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r'(src|href)="', page.split('<script type="application/json"')[0]), "nothing is loaded"
    assert str(tmp_path / "out" / "report.html") in capsys.readouterr().out.replace("\n", "")


@pytest.mark.slow
def test_several_clients_send_each_request_once(stub: Stub, tmp_path: Path) -> None:
    path = mooncake(tmp_path / "trace.jsonl", 30)
    assert run("replay", path, "--target", stub.url, "--out", tmp_path / "out", "--clients", 2) == 0
    found = load_run(tmp_path / "out" / "report.json")
    assert [row.index for row in found.requests] == list(range(30)) and found.client.processes == 3


def test_sessions_wait_for_answers_and_text_is_sent_as_it_is(stub: Stub, tmp_path: Path) -> None:
    stub.ttft_s = 0.2
    rows: list[dict[str, Any]] = [
        {"arrival_s": 0, "text": "one", "output_tokens": 1, "session": "s"},
        {"text": "two", "output_tokens": 1, "session": "s", "think_s": 0.1},
        {"arrival_s": 0, "text": "alone", "output_tokens": 1},
    ]
    path = trace(tmp_path / "trace.jsonl", rows)
    assert run("replay", path, "--target", stub.url, "--out", tmp_path / "out") == 0
    found = {row.index: row for row in load_run(tmp_path / "out" / "report.json").requests}
    first = next(row for row in found.values() if row.session and row.due_s == 0)
    second = next(row for row in found.values() if row.session and row.due_s > 0)
    assert first.last_s is not None and second.due_s >= first.last_s + 0.1
    assert {body["prompt"] for body in stub.bodies} >= {"one", "two", "alone"}


def test_synthetic_traffic_to_a_chat_endpoint(stub: Stub, tmp_path: Path) -> None:
    options = ("--synthetic", "fixed:tokens=40", "--rate", 20, "--duration", 1, "--output-tokens", 3, "--endpoint", "chat")
    assert run("replay", *options, "--target", stub.url, "--out", tmp_path / "out") == 0
    found = load_run(tmp_path / "out" / "report.json")
    assert found.requests and {(row.input_tokens, row.error) for row in found.requests} == {(40, "")}


@pytest.mark.slow
def test_two_results_are_compared(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mooncake(tmp_path / "trace.jsonl", 10)
    for name in ("a", "b"):
        assert run("replay", path, "--target", stub.url, "--out", tmp_path / name, "--title", name) == 0
    results = [tmp_path / name / "report.json" for name in ("a", "b")]
    assert run("report", *results, "--out", tmp_path / "both.html") == 0
    page = (tmp_path / "both.html").read_text()
    assert "Ratio to a" in page and "What differs in the set-ups" in page


@pytest.mark.slow
def test_a_sweep_ends_where_the_slo_breaks(stub: Stub, tmp_path: Path) -> None:
    stub.ttft_s = 0.05
    path = mooncake(tmp_path / "trace.jsonl", 10)
    options = ("--target", stub.url, "--warm-up", 0, "--out", tmp_path / "out", "--rates", "20,40,80")
    assert run("sweep", path, *options, "--slo-ttft", 0.01) == 0
    swept = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert len(swept["points"]) == 1 and swept["sustained_req_s"] is None
    assert run("sweep", path, *options, "--slo-ttft", 100) == 0
    swept = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [round(point["rate_req_s"]) for point in swept["points"]] == [20, 40, 80] and swept["sustained_req_s"] == 80
    assert load_run(tmp_path / "out" / swept["points"][0]["result"]).summary.request_count == 10


def test_bad_rows_are_skipped_up_to_a_number(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mooncake(tmp_path / "trace.jsonl", 6)
    lines = path.read_text().splitlines()
    lines[2], lines[4] = '{"timestamp": 40}', "nonsense"
    path.write_text("\n".join(lines))
    options = ("replay", path, "--target", stub.url, "--out", tmp_path / "out")
    assert run(*options) == 2 and "line 3" in capsys.readouterr().err
    assert run(*options, "--skip-bad", 1) == 2 and "line 5" in capsys.readouterr().err
    assert run(*options, "--skip-bad", 2) == 0
    found = load_run(tmp_path / "out" / "report.json")
    assert len(found.requests) == 4 and any("lines 3, 5" in note for note in found.setup.notes)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["replay", "nowhere.jsonl", "--target", "URL"], "nowhere.jsonl"),
        (["replay", "TRACE", "--target", "nonsense"], "no URL of a server"),
        (["replay", "TRACE", "--target", "http://127.0.0.1:1"], "cannot be reached"),
        (["replay", "TRACE", "--target", "URL", "--model", "x"], "no model 'x'"),
        (["replay", "TRACE", "--target", "URL", "--divide-lengths", "7"], "cannot be divided by 7"),
        (["replay", "TRACE", "--target", "URL", "--max-input-tokens", "5"], "nothing is left to send"),
        (["replay", "TRACE", "--target", "URL", "--speed", "2", "--rate", "3"], "exclude each other"),
        (["replay", "TRACE", "--target", "URL", "--sessions", "2", "--rate", "3"], "a rate needs"),
        (["replay", "TRACE", "--target", "URL", "--sessions", "2", "--fixed-schedule"], "exclude each other"),
        (["replay", "TRACE", "--target", "URL", "--warm-up", "99"], "leaves nothing"),
        (["replay", "--target", "URL"], "either a TRACE or --synthetic"),
        (["replay", "TRACE", "--synthetic", "fixed:tokens=1", "--target", "URL"], "either a TRACE or --synthetic"),
        (["replay", "--synthetic", "fixed:tokens=9", "--target", "URL"], "needs --rate and --duration"),
        (["replay", "--synthetic", "odd", "--rate", "1", "--duration", "9", "--target", "URL"], "no lengths 'odd'"),
        (["sweep", "TRACE", "--target", "URL"], "either --rates or --from"),
        (["report", "nowhere.json"], "nowhere.json cannot be read"),
        (["report", "TRACE"], "no result of `prfaas replay`"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_status_2(
    arguments: list[str],
    says: str,
    stub: Stub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = mooncake(tmp_path / "trace.jsonl", 3)
    places = {"URL": stub.url, "TRACE": str(path)}
    assert run(*(places.get(argument, argument) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert says in error and error.startswith(f"prfaas {arguments[0]}: ") and error.rstrip().endswith(".")


@pytest.mark.slow
def test_sessions_without_a_common_clock_need_users(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": str(n), "block_size": 64, "requests": [[0.0, "n", 100, 2, 0, [1, 2], 0.0]]} for n in range(3)]
    path = trace(tmp_path / "trace.jsonl", rows)
    options = ("replay", path, "--target", stub.url, "--out", tmp_path / "out", "--warm-up", 0)
    assert run(*options) == 2 and "--sessions" in capsys.readouterr().err
    assert run(*options, "--sessions", 2) == 0
    assert len(load_run(tmp_path / "out" / "report.json").requests) == 3


def test_a_server_that_refuses_all_is_status_1(stub: Stub, tmp_path: Path) -> None:
    asked = 0

    async def soon_full(body: dict[str, Any]) -> web.StreamResponse | None:
        nonlocal asked
        asked += 1
        return web.json_response({"error": {"message": "full", "code": "overloaded"}}, status=429) if asked > 3 else None

    stub.answer = soon_full
    path = mooncake(tmp_path / "trace.jsonl", 3)
    assert run("replay", path, "--target", stub.url, "--out", tmp_path / "out", "--warm-up", 0) == 1
    found = load_run(tmp_path / "out" / "report.json")
    assert found.summary.errors == {"overloaded": 3} and found.requests[0].message == "full"


@pytest.mark.slow
@pytest.mark.parametrize(("interrupts", "answer_s", "left"), [(1, 1.0, ""), (2, 1000.0, "interrupted")])
def test_ctrl_c_keeps_what_was_measured(interrupts: int, answer_s: float, left: str, stub: Stub, tmp_path: Path) -> None:
    async def late(body: dict[str, Any]) -> None:
        if len(body["prompt"]) == 600:  # the trace's, and not those that find out about the target before
            await asyncio.sleep(answer_s)

    stub.answer = late
    path = mooncake(tmp_path / "trace.jsonl", 100, every_ms=500)
    command = [sys.executable, "-m", "prfaas.cli", "replay", str(path), "--target", stub.url, "--out", str(tmp_path / "out")]
    process = subprocess.Popen([*command, "--warm-up", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline_at = time.monotonic() + 60.0
    while sum(len(body["prompt"]) == 600 for body in list(stub.bodies)) < 2:
        assert time.monotonic() < deadline_at and process.poll() is None
        time.sleep(0.02)
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    while b"Ctrl-C again" not in (line := process.stdout.readline()):
        assert line, "it ended without a word"
    if interrupts > 1:
        process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output.decode()
    found = load_run(tmp_path / "out" / "report.json")
    assert found.interrupted and 2 <= len(found.requests) < 100
    assert {row.error for row in found.requests} == {left}
    assert (tmp_path / "out" / "report.html").exists()
