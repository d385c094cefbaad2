"""A timer finer than the event loops': asyncio and uvloop round to milliseconds, which would be most of a short RTT's error."""

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable

_CLOCK_MONOTONIC = 1  # the clock of time.monotonic()
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE = 1
_libc = ctypes.CDLL(None, use_errno=True)


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Timer:
    """Calls back once, soon after `time.monotonic()` reaches the armed moment (Linux timerfd)."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._callback = callback
        self._setting = _Setting()
        self._armed_s: float | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._expired)

    def arm(self, moment_s: float | None) -> None:
        """Replaces what was armed; None disarms."""
        if moment_s == self._armed_s:
            return
        self._armed_s = moment_s
        nanoseconds = 0 if moment_s is None else max(1, int(moment_s * 1e9))
        self._setting.value.seconds, self._setting.value.nanoseconds = divmod(nanoseconds, 1_000_000_000)
        if _libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(self._setting), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def _expired(self) -> None:
        with contextlib.suppress(BlockingIOError):  # re-armed between the wake-up and this call
            os.read(self._fd, 8)
        self._armed_s = None
        self._callback()

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
