"""Interest of one process in a subject of the control bus, and what became of its messages."""

import asyncio
import contextlib
from typing import Final

from nats import errors as nats_errors
from nats.aio.subscription import Subscription as NatsSubscription

from prfaas.contracts.wire import BadMessageError
from prfaas.telemetry.faults import FAULTS
from prfaas.telemetry.logs import get_logger

DRAIN_S: Final = 2.0
"""Wait for the server's word that nothing more will come, and for what has come to be handled."""

_log = get_logger(__name__)


class Subscription:
    """Interest in a subject. Its queue is bounded: what exceeds it is dropped and counted."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.dropped = 0
        """Messages that came while the queue was full."""
        self.failed = 0
        """Messages that did not decode or whose handler raised."""
        self.nats: NatsSubscription | None = None
        """Set once the server knows of it."""

    def fault(self, subject: str, error: BaseException) -> None:
        """Counts and logs a message whose handling failed: the 1st, 2nd, 4th, 8th..., so that a flood does not flood the log."""
        self.failed += 1
        undecodable = isinstance(error, BadMessageError)
        (FAULTS.undecodable if undecodable else FAULTS.failed)["control"] += 1
        if self.failed & (self.failed - 1):
            return
        if undecodable:
            _log.warning("bus_message_undecodable", subject=subject, failed=self.failed, reason=str(error))
        else:
            _log.error("bus_handler_failed", subject=subject, failed=self.failed, exc_info=error)

    async def drain(self) -> None:
        """Ends the interest and handles what has arrived. A server that stands still is not waited for."""
        if self.nats is None or self.nats._closed:
            return
        with contextlib.suppress(nats_errors.Error, TimeoutError):  # the connection is gone: nothing more will arrive
            async with asyncio.timeout(DRAIN_S):
                await self.nats.drain()  # type: ignore[no-untyped-call]
        # Else a connection that comes back would subscribe again.
        self.nats._conn._remove_sub(self.nats._id)
