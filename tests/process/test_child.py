"""Children end with the process that started them, however that one ends."""

import ast
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prfaas.process.child import end_with_parent, running_with_parent
from tests.source_tree import parsed

ROOT = Path(__file__).parents[2]
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
    with multiprocessing.get_context("spawn").Pool(1, initializer=end_with_parent()) as pool:
        assert pool.apply(running_with_parent(abs), (-7,)) == 7


def untied(source: Path) -> Iterator[str]:
    """Yields the places at which a file starts a process that would outlive its parent."""
    for call in [node for node in ast.walk(parsed(source.read_text())) if isinstance(node, ast.Call)]:
        words = {each.arg: ast.unparse(each.value) for each in call.keywords}
        match ast.unparse(call.func).rpartition(".")[::2]:
            case (_, "Popen" | "create_subprocess_exec" | "create_subprocess_shell"):
                tied = "preexec_fn" in words
            case (_, "Pool"):
                tied = "initializer" in words
            case (owner, "Process") if owner != "psutil":
                tied = "running_with_parent" in words.get("target", "")
            case _:
                tied = True
        if not tied:
            yield f"{source.relative_to(ROOT)}:{call.lineno}"


def test_no_program_of_a_checkout_leaves_a_process_behind() -> None:
    folders = ("load", "infra", "shared/prfaas/stack", "shared/prfaas/wan")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 100
    assert [place for source in sources for place in untied(source)] == []
