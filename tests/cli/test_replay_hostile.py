"""`prfaas replay` where files, terminals, servers and users are not as they should be."""

import json
import os
import pty
import signal
import socket
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
from prfaas.traces import FORMATS
from tests.replay.stub_server import Stub, stub_in_thread
from tests.traces.test_damage import file_of

DEADLINE_S = 60.0


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_in_thread() as stub:
        yield stub


def mooncake(path: Path, count: int, every_ms: int = 20, first_ms: int = 0) -> Path:
    rows = [
        {"timestamp": first_ms + place * every_ms, "input_length": 600, "output_length": 4, "hash_ids": [0, 100 + place]}
        for place in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "prfaas.cli", *(str(argument) for argument in arguments)]


def wait_for(what: str, reached: Any) -> None:
    until_at = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < until_at, what
        time.sleep(0.02)


def of_the_trace(stub: Stub) -> list[dict[str, Any]]:
    """Requests of the trace, and not those that find out about the target before."""
    return [body for body in list(stub.bodies) if len(body["prompt"]) == 600]


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_recognised_and_replayed(format: str, packed: bool, stub: Stub, tmp_path: Path) -> None:
    rows = [(float(second), 50 + second, 3) for second in range(4)]
    path = file_of(tmp_path, format, rows, packed=packed, end="\r\n", mark="\ufeff")
    users = () if FORMATS[format].one_clock else ("--sessions", 2)
    options = ("--target", stub.url, "--out", tmp_path / "out", "--warm-up", 0, "--speed", 20, *users)
    assert run("replay", path, *options) == 0
    found = load_run(tmp_path / "out" / "report.json")
    assert sorted(row.input_tokens for row in found.requests) == [50, 51, 52, 53]
    assert found.summary.error_request_count == 0 and found.setup.workload is not None and found.setup.workload.format == format


@pytest.mark.parametrize("count", [1, 5])
def test_requests_that_all_come_at_once_have_figures(count: int, stub: Stub, tmp_path: Path) -> None:
    """Their window is the time that their answers take."""
    stub.ttft_s = 0.2
    path = mooncake(tmp_path / "t.jsonl", count, every_ms=0, first_ms=7_200_000)
    assert run("replay", path, "--target", stub.url, "--out", tmp_path / "out") == 0
    found = load_run(tmp_path / "out" / "report.json")
    assert {row.due_s for row in found.requests} == {0.0}, "an excerpt from the middle of a trace begins at once"
    assert found.summary.request_count == count and found.end_s >= 0.2
    assert found.summary.offered_request_throughput <= count / 0.2 and found.summary.request_throughput > 0


def test_brackets_and_escapes_in_names_are_shown_as_they_are(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(body: dict[str, Any]) -> web.StreamResponse | None:
        error = {"message": "[/b] \x1b[2J", "code": "[/red]\x1b[31m"}
        return web.json_response({"error": error}, status=500) if len(body["prompt"]) == 600 else None

    stub.answer = refuse
    path = mooncake(tmp_path / "[red].jsonl", 2)
    options = ("--title", "[/title] [red]", "--note", "[/note]", "--target", stub.url, "--out", tmp_path / "out", "--warm-up", 0)
    assert run("replay", path, *options) == 1
    shown = capsys.readouterr().out
    assert "[/title] [red]" in shown and "[/note]" in shown and "[/red] [31m" in shown and "\x1b" not in shown
    assert load_run(tmp_path / "out" / "report.json").summary.errors == {"[/red] [31m": 2}


def test_a_run_without_a_request_in_its_window_says_so(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mooncake(tmp_path / "t.jsonl", 2, every_ms=400)
    options = ("--target", stub.url, "--out", tmp_path / "out", "--duration", 0.3)
    assert run("replay", path, *options) == 1
    assert "no request was due between the warm-up of 0.03 s and the end at 0.3 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    "url", ["http://user:secret@127.0.0.1:1", "http://127.0.0.1:99999", "ftp://h", "h:80", "", "http://[::1"]
)
def test_urls_that_cannot_be_used_are_a_sentence(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mooncake(tmp_path / "t.jsonl", 2)
    assert run("replay", path, "--target", url, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("prfaas replay: ") and error.rstrip().endswith(".") and "secret" not in error


def test_a_full_disk_is_a_sentence(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mooncake(tmp_path / "t.jsonl", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "requests.jsonl").symlink_to("/dev/full")
    assert run("replay", path, "--target", stub.url, "--out", tmp_path / "out") == 2
    assert "requests.jsonl cannot be written: No space left on device." in capsys.readouterr().err


@pytest.mark.slow
def test_a_reader_that_leaves_does_not_end_the_run(stub: Stub, tmp_path: Path) -> None:
    path = mooncake(tmp_path / "t.jsonl", 20, every_ms=100)
    words = command("replay", path, "--target", stub.url, "--out", tmp_path / "out")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(DEADLINE_S) == 0, error
    assert error == b"" and len(load_run(tmp_path / "out" / "report.json").requests) == 20


@pytest.mark.slow
def test_a_closed_standard_output_is_no_fault(stub: Stub, tmp_path: Path) -> None:
    path = mooncake(tmp_path / "t.jsonl", 3)
    words = command("replay", path, "--target", stub.url, "--out", tmp_path / "out")
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *words], stderr=subprocess.PIPE, timeout=DEADLINE_S)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(load_run(tmp_path / "out" / "report.json").requests) == 3


@pytest.mark.slow
def test_a_terminal_gets_a_table_that_is_drawn_anew(stub: Stub, tmp_path: Path) -> None:
    path = mooncake(tmp_path / "t.jsonl", 20, every_ms=100)
    master, slave = pty.openpty()
    words = command("replay", path, "--target", stub.url, "--out", tmp_path / "out", "--slo-ttft", 100)
    process = subprocess.Popen(words, stdout=slave, stderr=slave, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"})
    os.close(slave)
    shown = b""
    while True:
        try:
            data = os.read(master, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(master)
    assert process.wait(DEADLINE_S) == 0, shown
    text = shown.decode()
    assert "\x1b[" in text and text.count("under way") > 1
    for name in ("requests", "errors", "TTFT", "goodput", "offered", "to go"):
        assert name in text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_keeps_what_was_measured(number: signal.Signals, stub: Stub, tmp_path: Path) -> None:
    """A terminal's Ctrl-C, `timeout` and a closed terminal reach the client processes too."""
    path = mooncake(tmp_path / "t.jsonl", 100, every_ms=500)
    words = command("replay", path, "--target", stub.url, "--out", tmp_path / "out", "--warm-up", 0, "--clients", 2)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    wait_for("nothing was sent", lambda: len(of_the_trace(stub)) >= 2 or process.poll() is not None)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, output.decode()
    found = load_run(tmp_path / "out" / "report.json")
    assert found.interrupted and 2 <= len(found.requests) < 100 and not found.summary.errors


@pytest.mark.slow
def test_ctrl_c_before_the_run_is_a_sentence(tmp_path: Path) -> None:
    path = mooncake(tmp_path / "t.jsonl", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        words = command("replay", path, "--target", url, "--out", tmp_path / "out")
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        silent.settimeout(DEADLINE_S)
        connection, _ = silent.accept()
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=DEADLINE_S)
        connection.close()
    assert (process.returncode, error, output) == (130, b"prfaas: interrupted.\n", b"")


@pytest.mark.slow
def test_rates_that_are_close_have_results_of_their_own(stub: Stub, tmp_path: Path) -> None:
    path = mooncake(tmp_path / "t.jsonl", 6)
    options = ("--target", stub.url, "--warm-up", 0, "--out", tmp_path / "out", "--rates", "40.0001,40.0002", "--slo-ttft", 100)
    assert run("sweep", path, *options) == 0
    swept = json.loads((tmp_path / "out" / "sweep.json").read_text())
    names = [point["result"] for point in swept["points"]]
    assert len(set(names)) == 2 and all((tmp_path / "out" / name).exists() for name in names)
