"""The code and the sentence of an error that ends one request."""

from prfaas.bus.errors import BusError, StreamFullError
from prfaas.contracts.codes import FailureCode
from prfaas.transfer.errors import TransferError

MAX_CHARS = 500


def failure_code(error: Exception) -> FailureCode:
    """Returns the code of an attempt that ended in `error`. What neither the link nor the bus raises, the engine does."""
    match error:
        case TransferError():
            return error.code
        case StreamFullError():
            return FailureCode.JOB_QUEUE_FULL
        case BusError():
            return FailureCode.JOB_NOT_QUEUED
        case _:
            return FailureCode.ENGINE


def fault_text(error: BaseException) -> str:
    """Returns one line of at most `MAX_CHARS` characters; the class is named where it is one of Python's or a library's."""
    text = " ".join(str(error).split())
    own = type(error).__module__.startswith("prfaas")
    named = text if own and text else f"{type(error).__name__}: {text}".removesuffix(": ")
    return named if len(named) <= MAX_CHARS else named[: MAX_CHARS - 3] + "..."
