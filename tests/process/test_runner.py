"""Real processes and real signals: readiness, drain, crash, misconfiguration."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from infra.otlp_sink import OtlpSink
from prfaas.process.child import end_with_parent

pytestmark = pytest.mark.slow  # each starts a process of its own
TOY = Path(__file__).with_name("toy_service.py")
DEADLINE_S = 60.0


class Process:
    """A toy service, and the lines of its log so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[dict[str, Any]] = []
        self.port = 0

    @property
    def pid(self) -> int:
        pid: int = self._process.pid
        return pid

    async def event(self, name: str) -> dict[str, Any]:
        """Reads the log up to this event."""
        async with asyncio.timeout(DEADLINE_S):
            while (line := await self._line()) is not None:
                if line["event"] == name:
                    return line
        raise AssertionError(f"the process ended without `{name}`: {self.lines}")

    async def get(self, path: str) -> httpx.Response:
        return await self._request("GET", path)

    async def post(self, path: str) -> httpx.Response:
        return await self._request("POST", path)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def exit(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            while await self._line() is not None:
                pass
            return await self._process.wait()

    def seen(self, *names: str) -> list[str]:
        return [line["event"] for line in self.lines if line["event"] in names]

    async def _request(self, method: str, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
            return await client.request(method, f"http://127.0.0.1:{self.port}{path}")

    async def _line(self) -> dict[str, Any] | None:
        assert self._process.stderr is not None
        text = await self._process.stderr.readline()
        if not text:
            return None
        line: dict[str, Any] = msgspec.json.decode(text)
        self.lines.append(line)
        self.port = line.get("http_port", self.port)
        return line


def start(*flags: str, limits: str = ":") -> Any:
    """Starts a toy service under a shell's limits, such as `ulimit -n 160`."""
    service = [sys.executable, str(TOY), "--site", "east", "--control.url", "nats://127.0.0.1:1", *flags]
    arguments = ["sh", "-c", f'{limits} && exec "$0" "$@"', *service]
    return asyncio.create_subprocess_exec(*arguments, stderr=asyncio.subprocess.PIPE, preexec_fn=end_with_parent())


@asynccontextmanager
async def toy(behaviour: str = "good", *flags: str, limits: str = ":") -> AsyncIterator[Process]:
    process = await start("--behaviour", behaviour, *flags, limits=limits)
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_sigterm_drains_and_exits_with_0() -> None:
    async with toy() as process:
        ready = await process.event("ready")
        assert ready["http_port"] == process.port > 0
        assert (ready["service"], ready["site"]) == ("prfaas-toy", "east") and ready["instance"].startswith("toy-")
        assert (await process.get("/health")).status_code == 200
        assert (await process.get("/ready")).status_code == 200
        assert "process_resident_memory_bytes" in (await process.get("/metrics")).text
        process.send(signal.SIGTERM)
        assert await process.exit() == 0
        assert process.seen("draining", "drain_begun", "stop_called", "stopped", "crashed") == [
            "draining", "drain_begun", "stop_called", "stopped",
        ]  # fmt: skip


async def test_while_draining_it_is_not_ready_and_a_second_signal_ends_it_at_once() -> None:
    async with toy("slow_drain", "--drain-s", "60") as process:
        await process.event("ready")
        process.send(signal.SIGINT)
        await process.event("drain_begun")
        answer = await process.get("/ready")
        assert answer.status_code == 503 and answer.json()["reason"] == "draining"
        assert (await process.get("/health")).status_code == 200
        process.send(signal.SIGTERM)
        assert await process.exit() == 128 + signal.SIGTERM
        assert process.seen("stop_called") == []


async def test_drain_ends_at_its_deadline() -> None:
    async with toy("slow_drain", "--drain-s", "0.1") as process:
        await process.event("ready")
        process.send(signal.SIGTERM)
        assert await process.exit() == 0
        assert process.seen("drain_incomplete", "stop_called") == ["drain_incomplete", "stop_called"]


async def test_a_crashed_background_task_ends_the_process_with_1_and_a_traceback() -> None:
    async with toy() as process:
        await process.event("ready")
        assert (await process.post("/crash")).text == "as you wish"
        assert await process.exit() == 1
        crash = next(line for line in process.lines if line["event"] == "crashed")
        assert crash["error"] == "told to crash"
        assert "_crash_when_told" in crash["exception"] and "background task `crasher`" in crash["exception"]
        assert process.seen("drain_begun", "stop_called") == ["stop_called"]


async def test_a_crash_while_draining_is_a_crash() -> None:
    async with toy("slow_drain", "--drain-s", "60") as process:
        await process.event("ready")
        process.send(signal.SIGTERM)
        await process.event("drain_begun")
        await process.post("/crash")
        assert await process.exit() == 1


async def test_a_failed_start_stops_what_was_open_and_exits_with_1() -> None:
    async with toy("bad_start") as process:
        assert await process.exit() == 1
        assert process.seen("ready", "crashed", "stop_called") == ["crashed", "stop_called"]


async def test_while_starting_it_answers_that_it_is_not_ready_and_can_be_stopped() -> None:
    async with toy("slow_start") as process:
        await process.event("start_begun")
        answer = await process.get("/ready")
        assert answer.status_code == 503 and answer.json()["reason"] == "starting"
        other = await process.post("/v1/completions")
        assert other.status_code == 503 and other.headers["retry-after"] == "1"
        process.send(signal.SIGTERM)
        assert await process.exit() == 0
        assert process.seen("ready", "drain_begun", "stop_called") == ["stop_called"]


async def test_the_last_spans_are_sent_before_it_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    async with OtlpSink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
        async with toy() as process:
            await process.event("ready")
            process.send(signal.SIGTERM)
            assert await process.exit() == 0
        assert [(span.name, span.service, span.site) for span in sink.spans] == [("toy_start", "prfaas-toy", "east")]


async def test_a_collector_that_is_gone_does_not_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    async with toy() as process:
        await process.event("ready")
        process.send(signal.SIGTERM)
        assert await process.exit() == 0
        assert process.seen("spans_lost") == ["spans_lost"]


async def test_a_program_of_another_role_takes_over_the_process_its_command_line_and_its_port() -> None:
    process = Process(await start("--name", "t0"))
    ready = await process.event("ready")
    assert (await process.post("/become?role=scheduler")).text == "as you wish"
    listening = await process.event("http_listening")
    assert (listening["service"], listening["instance"]) == ("prfaas-scheduler", "t0")
    assert listening["http_port"] == ready["http_port"]
    assert (await process.get("/ready")).status_code == 503, "it starts"
    assert process.seen("stop_called", "drain_begun", "crashed") == ["stop_called"], "the service drained before it asked"
    assert process.pid == ready["pid"]
    process.send(signal.SIGTERM)
    assert await process.exit() == 0


async def test_a_signal_wins_over_a_change_of_role() -> None:
    async with toy("slow_drain", "--drain-s", "60") as process:
        await process.event("ready")
        process.send(signal.SIGTERM)
        await process.event("drain_begun")
        await process.post("/become?role=scheduler")
        await process.post("/end_drain")
        assert await process.exit() == 0
        assert process.seen("stopped", "role_changing", "http_listening") == ["http_listening", "stopped"]


async def test_check_only_reads_the_configuration() -> None:
    for words, code in ((("--check",), 0), (("--check", "--behavior", "good"), 2)):
        process = await start(*words)
        async with asyncio.timeout(DEADLINE_S):
            _, text = await process.communicate()
        assert process.returncode == code
        assert (b"did you mean" in text) is (code == 2)


async def test_bad_configuration_exits_with_2_and_one_sentence() -> None:
    process = await start("--behavior", "good")
    async with asyncio.timeout(DEADLINE_S):
        _, text = await process.communicate()
    assert process.returncode == 2
    assert text.decode() == "prfaas-toy: command line: unknown key `behavior`; did you mean `behaviour`?\n"


async def test_a_taken_port_exits_with_1_and_says_so() -> None:
    async with toy() as first:
        port = (await first.event("ready"))["http_port"]
        async with toy("good", "--http-port", str(port)) as second:
            assert await second.exit() == 1
            assert f"cannot listen for HTTP on 127.0.0.1:{port}" in second.lines[0]["error"]


async def test_neither_a_hanging_task_nor_a_hanging_thread_keeps_a_dead_process_alive() -> None:
    async with toy("hanging_task") as task, toy("hanging_thread") as thread:
        for process in (task, thread):
            await process.event("ready")
            process.send(signal.SIGTERM)
        assert [await task.exit(), await thread.exit()] == [1, 1]
        assert next(line for line in task.lines if line["event"] == "task_hangs")["task"] == "stubborn"
        assert thread.seen("stopped", "exit_forced") == ["stopped", "exit_forced"]
