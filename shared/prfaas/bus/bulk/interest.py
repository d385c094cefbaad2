"""Interest of one owner in a subject of the bulk lane."""

from collections.abc import Callable
from typing import NamedTuple

from prfaas.bus.bulk.wire import Message
from prfaas.telemetry.faults import FAULTS
from prfaas.telemetry.logs import get_logger

Handler = Callable[[Message], None]
Failed = Callable[[Exception], None]
"""Told that an interest has ended because its handler raised."""

_log = get_logger(__name__)


class Interest(NamedTuple):
    subject: str
    handler: Handler
    failed: Failed | None

    def deliver(self, message: Message) -> bool:
        """Returns whether the handler took the message. Never raises: that would end the connection of all."""
        try:
            self.handler(message)
        except Exception as error:
            FAULTS.failed["bulk"] += 1
            _log.error("bulk_handler_failed", subject=message.subject, exc_info=error)
            message.release()
            if self.failed is not None:
                self._tell(self.failed, error)
            return False
        return True

    def _tell(self, failed: Failed, error: Exception) -> None:
        try:
            failed(error)
        except Exception as untold:
            _log.error("bulk_owner_not_told", subject=self.subject, exc_info=untold)
