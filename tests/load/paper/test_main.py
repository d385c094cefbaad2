"""The benchmark as a process: stopped half-way, it leaves nothing behind."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[3]


def left_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def test_a_benchmark_that_is_stopped_stops_its_stack(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "load.paper", "--seconds", "30"),
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    async with asyncio.timeout(250):
        while b"up after" not in (line := await process.stdout.readline()):
            assert line, (await process.stderr.read()).decode()
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) > 12
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
    assert process.returncode == 1 and b"stopped before the end" in errors
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert left_in(tmp_path) == []
