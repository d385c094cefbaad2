"""Child processes that end with the process that started them, however that one ends.

The kernel sends SIGKILL to a child whose parent is gone (PR_SET_PDEATHSIG). A killed parent, as when a test run is interrupted,
has no chance to do it. The parent is the thread that starts the child, which must be one that lives as long as the process.
"""

import ctypes
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import TypeVar

Result = TypeVar("Result")

_PR_SET_PDEATHSIG = 1
# Looked up here: between fork and exec a child must not load libraries.
_LIBC = ctypes.CDLL(None, use_errno=True)


def end_with_parent() -> Callable[[], None]:
    """Returns a `preexec_fn` for `subprocess` and asyncio's child processes, or the initializer of a pool of processes."""
    return partial(end_with, os.getpid())


def running_with_parent(run: Callable[..., Result]) -> Callable[..., Result]:
    """Returns `run` as the target, or the initializer, of a child process of `multiprocessing`."""
    return partial(_run, os.getpid(), run)


def end_with(parent_pid: int) -> None:
    """Ties this process, a child of `parent_pid`, to the end of that one."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the line above
        os._exit(1)


def _run(parent_pid: int, run: Callable[..., Result], *args: object) -> Result:
    end_with(parent_pid)
    return run(*args)
