"""The sending side of a small transfer past the broker's store, as a pure state machine.

All frames go at once, when the last one is there. What is on the way when a connection breaks is lost without a word, so the
receiver is asked until it says that it has verified them. They are sent again only where it says that some are missing: a
receiver that stands still must not find the same bytes ten times over.
"""

from enum import StrEnum
from typing import NamedTuple

from prfaas.contracts.codes import FailureCode

ASK_EVERY_S = 1.0
"""Wait for the receiver's word before it is asked."""
UNHEARD_S = 2.0
"""Time without a process that hears, after which the decode worker is gone, or may not hear. Connecting anew takes one second."""


class FramesComplete(NamedTuple):
    """The manifest is framed."""

    now_s: float


class Connected(NamedTuple):
    """There is a new connection: what the last one had to deliver may be lost."""

    now_s: float


class Verified(NamedTuple):
    """The receiver has the attempt's KV, and it is right: ours, or that of another worker with the same job."""


class Incomplete(NamedTuple):
    """The receiver has read all that was sent before it was asked, and frames are missing."""

    now_s: float


class NotTaken(NamedTuple):
    """The receiver is gone, or has done with the attempt."""


class Unheard(NamedTuple):
    """No process hears what is sent. One that connects anew is not heard for a moment either."""

    now_s: float


class Broken(NamedTuple):
    """The attempt is over for a reason of this side, or of the server."""

    code: FailureCode
    message: str


class Tick(NamedTuple):
    now_s: float


DirectEvent = FramesComplete | Connected | Verified | Incomplete | NotTaken | Unheard | Broken | Tick

# What the shell is told to do:


class SendAll(NamedTuple):
    """Sends every frame, from the first on."""


class Ask(NamedTuple):
    """Asks the receiver what has come."""


class Done(NamedTuple):
    pass


class Failed(NamedTuple):
    code: FailureCode
    message: str


DirectInstruction = SendAll | Ask | Done | Failed


class DirectState(StrEnum):
    FRAMING = "framing"
    SENT = "sent"
    VERIFIED = "verified"
    FAILED = "failed"


class DirectCore:
    def __init__(self, *, deadline_at: float) -> None:
        """`deadline_at` is a moment on the clock of the events."""
        self.state = DirectState.FRAMING
        self.sendings = 0
        """Times that all frames were sent."""
        self._deadline_at = deadline_at
        self._sent_at = 0.0
        self._asked_at: float | None = None
        """Moment of the first question since the frames were sent; its answer is about them."""
        self._last_asked_at = 0.0
        self._unheard_at: float | None = None
        """Moment since which no process has heard anything."""

    @property
    def finished(self) -> bool:
        return self.state in (DirectState.VERIFIED, DirectState.FAILED)

    def handle(self, event: DirectEvent) -> list[DirectInstruction]:
        if self.finished:
            return []
        match event:
            case FramesComplete(now_s):
                assert self.state is DirectState.FRAMING, "frames are complete once"
                return self._send(now_s)
            case Broken(code, message):
                return self._fail(code, message)
            case Tick(now_s) if now_s >= self._deadline_at:
                return self._fail(FailureCode.TIMEOUT, f"not verified by its deadline; sent {self.sendings} times")
        return [] if self.state is DirectState.FRAMING else self._sent(event)

    def _sent(self, event: DirectEvent) -> list[DirectInstruction]:
        match event:
            case Verified():
                self.state = DirectState.VERIFIED
                return [Done()]
            case NotTaken():
                return self._fail(FailureCode.CANCELLED, "the decode worker has done with the attempt")
            case Connected(now_s):
                self._unheard_at = None
                return self._ask(now_s)
            case Incomplete(now_s):
                # Before that, an answer is to a question before the frames were sent again.
                return [] if self._asked_at is None else self._send(now_s)
            case Unheard(now_s):
                self._unheard_at = now_s if self._unheard_at is None else self._unheard_at
                if now_s - self._unheard_at >= UNHEARD_S:
                    return self._fail(FailureCode.BROKER, "no process hears what is sent to the inbox")
            case Tick(now_s) if now_s - max(self._sent_at, self._last_asked_at) >= ASK_EVERY_S:
                return self._ask(now_s)
        return []

    def _ask(self, now_s: float) -> list[DirectInstruction]:
        self._asked_at = now_s if self._asked_at is None else self._asked_at
        self._last_asked_at = now_s
        return [Ask()]

    def _send(self, now_s: float) -> list[DirectInstruction]:
        self.state = DirectState.SENT
        self.sendings += 1
        self._sent_at, self._asked_at = now_s, None
        return [SendAll()]

    def _fail(self, code: FailureCode, message: str) -> list[DirectInstruction]:
        self.state = DirectState.FAILED
        return [Failed(code, message)]
