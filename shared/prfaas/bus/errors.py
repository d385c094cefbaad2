"""Errors of the control bus."""


class BusError(Exception):
    """Base of all errors of the control bus; the message is a sentence."""


class BusTimeoutError(BusError, TimeoutError):
    """No answer before the deadline: the other side is slow, gone, or out of reach. Whether it acted is unknown."""

    def __init__(self, what: str, timeout_s: float) -> None:
        super().__init__(f"{what} got no answer within {timeout_s:g} s")
        self.timeout_s = timeout_s


class NoRespondersError(BusError):
    """Raised when nothing listens on the subject, as far as the own server knows: the request was not delivered."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"nobody answers on {subject}: the service is not running or its site is not connected")
        self.subject = subject


class PermissionDeniedError(BusError):
    """The server refused to let this user publish or subscribe there."""


class NotConnectedError(BusError):
    """The connection is closed for good, or what it may buffer while it reconnects is full."""


class MessageTooLargeError(BusError, ValueError):
    """More than the server takes; it was not sent, for the server would close the connection."""

    def __init__(self, subject: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"a message of {size_bytes} bytes to {subject} exceeds the server's limit of {limit_bytes} bytes")
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes


class RemoteError(BusError):
    """The handler at the other end refused or failed. Raised by a handler, it reaches the caller with its code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class StreamError(BusError):
    """JetStream refused: a full queue, a stream that is not there, a limit of the account."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code
        """JetStream's number of the error; 0 where it said none."""


class StreamFullError(StreamError):
    """JetStream refused: the stream holds as many messages or bytes as it may."""


class BadRevisionError(BusError):
    """Raised when an entry was changed by another process: nothing was stored."""
