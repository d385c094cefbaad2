import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from load.chaos.harness import GO_ON, FaultHarness
from prfaas.telemetry import fault_points
from prfaas.telemetry.fault_points import TEST_SOCKET_VARIABLE, Announcement, FaultPoint, Order, reach
from prfaas.telemetry.wall_clock import unix_s

REACH_TWICE = """
import time
from prfaas.telemetry.fault_points import FaultPoint, InjectedFaultError, reach
from prfaas.telemetry.wall_clock import unix_s
from prfaas.telemetry.wall_clock import unix_s
try:
    reach(FaultPoint.JOB_TAKEN, "r", 3)
    print("went on")
except InjectedFaultError as error:
    print(error)
print(round(unix_s() - time.time()))
reach(FaultPoint.DECODING, "r", 4)
print("over")
"""


async def run_process(environ: dict[str, str]) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", REACH_TWICE),
        stdout=asyncio.subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if key != TEST_SOCKET_VARIABLE} | environ,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60.0)
    return out.decode().splitlines()


def test_nothing_is_announced_without_the_test_variable() -> None:
    assert TEST_SOCKET_VARIABLE not in os.environ
    reach(FaultPoint.PLACED, "r")
    assert fault_points._points._harness is None


def test_a_step_costs_next_to_nothing_without_a_harness() -> None:
    """Counts calls of the interpreter, not seconds: one test of an empty string, and back."""
    calls = []
    sys.setprofile(lambda frame, event, argument: calls.append(event))
    try:
        reach(FaultPoint.FRAME, "r", 1)
    finally:
        sys.setprofile(None)
    assert calls.count("call") == 1


async def test_the_harness_hears_of_each_step_in_order(tmp_path: Path) -> None:
    heard: list[Announcement] = []

    async def answer(announcement: Announcement) -> Order:
        heard.append(announcement)
        return GO_ON

    async with FaultHarness(tmp_path / "s") as harness:
        harness.answer = answer
        assert await run_process(harness.environ) == ["went on", "0", "over"]
    assert [(each.point, each.request_id, each.number) for each in heard] == [
        (FaultPoint.JOB_TAKEN, "r", 3),
        (FaultPoint.DECODING, "r", 4),
    ]
    assert len({each.pid for each in heard}) == 1


async def test_the_process_stands_still_until_the_harness_answers(tmp_path: Path) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def answer(announcement: Announcement) -> Order:
        asked.set()
        await go.wait()
        return GO_ON

    async with FaultHarness(tmp_path / "s") as harness:
        harness.answer = answer
        running = asyncio.create_task(run_process(harness.environ))
        await asyncio.wait_for(asked.wait(), 60.0)
        await asyncio.sleep(0.2)
        assert not running.done()
        go.set()
        assert await running == ["went on", "0", "over"]


async def test_the_harness_can_make_a_step_fail_and_a_clock_jump(tmp_path: Path) -> None:
    async def answer(announcement: Announcement) -> Order:
        return Order(fail=announcement.point is FaultPoint.JOB_TAKEN, clock_shift_s=20.0)

    async with FaultHarness(tmp_path / "s") as harness:
        harness.answer = answer
        assert await run_process(harness.environ) == ["an injected fault at the step job_taken", "20", "over"]


async def test_a_clock_is_set_back_at_the_next_step_of_its_process(tmp_path: Path) -> None:
    async with FaultHarness(tmp_path / "s") as harness:
        pids: list[int] = []

        async def answer(announcement: Announcement) -> Order:
            pids.append(announcement.pid)
            harness.clock_shifts[announcement.pid] = 0.0
            return Order(clock_shift_s=20.0) if len(pids) == 1 else GO_ON

        harness.answer = answer
        await run_process(harness.environ)
        assert harness.clock_shifts == {}, "taken by the second step"


async def test_a_service_goes_on_without_a_harness_that_has_gone(tmp_path: Path) -> None:
    assert await run_process({TEST_SOCKET_VARIABLE: str(tmp_path / "nothing")}) == ["went on", "0", "over"]


@pytest.mark.parametrize("module", ["prfaas_gateway", "prfaas_decode_worker", "prfaas_prefill_worker"])
def test_the_test_variable_is_no_key_of_a_configuration(module: str) -> None:
    """It must not stop a service from starting, as an unknown key would."""
    started = subprocess.run(
        [sys.executable, "-m", module, "--check", "--site", "s", "--control.url", "nats://127.0.0.1:1"],
        env=os.environ | {TEST_SOCKET_VARIABLE: "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60.0,
    )
    assert "TEST_FAULT_POINTS" not in started.stderr


def test_moments_are_the_hosts_own_as_long_as_no_test_shifts_them() -> None:
    before = time.time()
    assert before <= unix_s() <= time.time()
