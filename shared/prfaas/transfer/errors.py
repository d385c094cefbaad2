"""Failures of a KV transfer."""

from prfaas.contracts.codes import FailureCode


class TransferError(Exception):
    """This attempt is dead; a new one needs a new object."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code = code
