"""Children end with the process that started them, however that one ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prfaas.process.child import end_with_parent

DEADLINE_S = 30.0
PARENT = """
import subprocess, sys, time
from prfaas.process.child import end_with_parent
child = subprocess.Popen(["sleep", "1000"], start_new_session=True, preexec_fn=end_with_parent())
print(child.pid, flush=True)
time.sleep(1000)
"""


def ended(pid: int) -> bool:
    """Tells whether the process is gone, or only waits to be reaped by a parent that is not ours."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_child_ends_with_a_parent_that_had_no_chance_to_stop_it(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert not ended(child)
            parent.send_signal(number)
            parent.wait(DEADLINE_S)
            until_at = time.monotonic() + DEADLINE_S
            while not ended(child):
                assert time.monotonic() < until_at, "the child goes on"
                time.sleep(0.01)
        finally:
            if not ended(child):
                os.kill(child, signal.SIGKILL)


def test_a_child_of_a_living_parent_goes_on() -> None:
    assert subprocess.run(["true"], preexec_fn=end_with_parent(), check=False).returncode == 0
