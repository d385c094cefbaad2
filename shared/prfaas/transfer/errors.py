"""How a KV transfer fails."""

from enum import StrEnum


class TransferCode(StrEnum):
    TIMEOUT = "timeout"
    CORRUPT = "corrupt"
    """Bytes, order or extent are not what the sender promised. Nothing that failed a check was installed."""
    ABORTED = "aborted"
    """The other side gave up and said so."""
    BROKER = "broker"
    """NATS refused, lost or cannot take the frames."""
    LOSSY = "lossy"
    """A frame came in 8 bits, which this decode worker's configuration does not allow. It was not installed."""
    FINGERPRINT = "fingerprint"
    """The two sides differ in model, weights, dtype or layout."""


class TransferError(Exception):
    """This attempt is dead; a new one needs a new object."""

    def __init__(self, code: TransferCode, message: str) -> None:
        super().__init__(message)
        self.code = code
