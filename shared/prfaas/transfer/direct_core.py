"""The sending side of a small transfer past the broker's store, as a pure state machine.

All frames go at once, when the last one is there, and again until the receiver has verified them: it takes each position once,
so sending twice is safe. What is on the way when a connection breaks is lost without a word; the next time brings it.
"""

from enum import StrEnum
from typing import NamedTuple

from prfaas.contracts.codes import FailureCode

RESEND_S = 1.0
"""Wait for the receiver's word before everything is sent again."""


class FramesComplete(NamedTuple):
    """The manifest is framed."""

    now_s: float


class Connected(NamedTuple):
    now_s: float


class Verified(NamedTuple):
    """The receiver has the attempt's KV, and it is right: ours, or that of another worker with the same job."""


class NotTaken(NamedTuple):
    """The receiver is gone, or has done with the attempt."""


class Broken(NamedTuple):
    """The attempt is over for a reason of this side, or of the server."""

    code: FailureCode
    message: str


class Tick(NamedTuple):
    now_s: float


DirectEvent = FramesComplete | Connected | Verified | NotTaken | Broken | Tick

# What the shell is told to do:


class SendAll(NamedTuple):
    """Sends every frame, from the first on."""


class Done(NamedTuple):
    pass


class Failed(NamedTuple):
    code: FailureCode
    message: str


DirectInstruction = SendAll | Done | Failed


class DirectState(StrEnum):
    FRAMING = "framing"
    SENT = "sent"
    VERIFIED = "verified"
    FAILED = "failed"


class DirectCore:
    def __init__(self, *, deadline_at: float, idle_timeout_s: float) -> None:
        """`deadline_at` is a moment on the clock of the events. Unverified for `idle_timeout_s` the attempt fails."""
        self.state = DirectState.FRAMING
        self.sendings = 0
        """Times that all frames were sent."""
        self._deadline_at = deadline_at
        self._idle_timeout_s = idle_timeout_s
        self._complete_at = 0.0
        self._sent_at = 0.0

    @property
    def finished(self) -> bool:
        return self.state in (DirectState.VERIFIED, DirectState.FAILED)

    def handle(self, event: DirectEvent) -> list[DirectInstruction]:
        if self.finished:
            return []
        match event:
            case FramesComplete(now_s):
                assert self.state is DirectState.FRAMING, "frames are complete once"
                self._complete_at = now_s
                return self._send(now_s)
            case Connected(now_s):
                return self._send(now_s) if self.state is DirectState.SENT else []
            case Verified() if self.state is DirectState.SENT:
                self.state = DirectState.VERIFIED
                return [Done()]
            case NotTaken() if self.state is DirectState.SENT:
                return self._fail(FailureCode.ABORTED, "nobody takes the frames: the decode worker has done with the attempt")
            case Broken(code, message):
                return self._fail(code, message)
            case Tick(now_s):
                return self._tick(now_s)
        return []

    def _tick(self, now_s: float) -> list[DirectInstruction]:
        if now_s >= self._deadline_at:
            return self._fail(FailureCode.TIMEOUT, "not verified by its deadline")
        if self.state is DirectState.FRAMING:
            return []
        if now_s - self._complete_at >= self._idle_timeout_s:
            return self._fail(FailureCode.TIMEOUT, f"sent {self.sendings} times, and not verified for {self._idle_timeout_s:g} s")
        return self._send(now_s) if now_s - self._sent_at >= RESEND_S else []

    def _send(self, now_s: float) -> list[DirectInstruction]:
        self.state = DirectState.SENT
        self.sendings += 1
        self._sent_at = now_s
        return [SendAll()]

    def _fail(self, code: FailureCode, message: str) -> list[DirectInstruction]:
        self.state = DirectState.FAILED
        return [Failed(code, message)]
