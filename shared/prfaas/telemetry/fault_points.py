"""Steps of a request at which a test harness brings faults about.

Inert unless the environment variable PRFAAS_TEST_FAULT_POINTS names the Unix socket of a harness (load/chaos). Then `reach`
announces the step there, and the whole process stands still until the harness answers. What the harness does meanwhile, such as
a kill, happens exactly at that step.
"""

import os
import socket
from enum import StrEnum
from typing import Final

import msgspec

from prfaas.telemetry import wall_clock

TEST_SOCKET_VARIABLE: Final = "PRFAAS_TEST_FAULT_POINTS"
ANSWER_TIMEOUT_S: Final = 30.0
"""Time after which a harness that does not answer counts as gone."""


class FaultPoint(StrEnum):
    PLACING = "placing"
    """The scheduler has decided and is about to answer."""
    PLACED = "placed"
    """The gateway has the scheduler's placement and is about to ask the decode worker."""
    ACCEPTED = "accepted"
    """The decode worker has taken the request and is about to say so."""
    JOB_STORED = "job_stored"
    """The prefill site's queue has acknowledged the decode worker's job."""
    JOB_TAKEN = "job_taken"
    """A prefill worker has the job and is about to begin it."""
    FRAME = "frame"
    """The prefill worker is about to send a frame; the number is its place in the transfer."""
    MANIFEST = "manifest"
    """The prefill worker is about to send the last frame."""
    DECODING = "decoding"
    """The decode worker is about to compute a token; the number counts those that it has computed."""


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """One line of JSON from a process to the harness."""

    point: FaultPoint
    request_id: str
    number: int
    pid: int


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The harness's answer, one line of JSON."""

    fail: bool = False
    """Raises InjectedFaultError at the step."""
    clock_shift_s: float | None = None
    """Lead of the process's wall clock over the host's from now on; None leaves it."""


class InjectedFaultError(RuntimeError):
    """An error that no code foresees, raised because the harness asked for it."""


class _Harness:
    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        self._socket.connect(path)
        self._answers = self._socket.makefile("rb")

    def ask(self, announcement: Announcement) -> Order:
        """Raises OSError, EOFError and msgspec.DecodeError when there is no harness any more."""
        self._socket.sendall(msgspec.json.encode(announcement) + b"\n")
        if not (line := self._answers.readline()):
            raise EOFError
        return msgspec.json.decode(line, type=Order)


class _FaultPoints:
    def __init__(self, path: str) -> None:
        self.path = path
        """Socket of the harness; empty without one."""
        self._harness: _Harness | None = None

    def reach(self, point: FaultPoint, request_id: str, number: int) -> None:
        try:
            if self._harness is None:
                self._harness = _Harness(self.path)
            order = self._harness.ask(Announcement(point=point, request_id=request_id, number=number, pid=os.getpid()))
        except (OSError, EOFError, msgspec.DecodeError):
            self.path = ""  # the harness has gone: the service goes on as one without
            return
        if order.clock_shift_s is not None:
            wall_clock.shift_for_test(order.clock_shift_s)
        if order.fail:
            raise InjectedFaultError(f"an injected fault at the step {point.value}")


_points = _FaultPoints(os.environ.get(TEST_SOCKET_VARIABLE, ""))


def reach(point: FaultPoint, request_id: str, number: int = 0) -> None:
    """Announces a step to the harness, if there is one. Raises InjectedFaultError where the harness wants it."""
    if _points.path:
        _points.reach(point, request_id, number)
