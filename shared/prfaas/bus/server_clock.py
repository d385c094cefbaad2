"""The clock of the site's server, as its answers show it: what it stamped is compared with no other host's clock."""

import json
import time
from datetime import datetime
from typing import Final

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, StreamError
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.wall_clock import unix_s

MEASURED_FOR_S: Final = 5.0
"""Time after which the clock is asked for again: a server may be another one by then, or its clock set."""
WARN_SKEW_S: Final = 1.0
_TIMEOUT_S: Final = 2.0

_log = get_logger(__name__)


class ServerClock:
    """Moves by this host's monotonic clock from the last answer on. Until the first answer it is this host's own clock."""

    def __init__(self) -> None:
        self._ahead_of_monotonic_s = unix_s() - time.monotonic()
        self._asked_at: float | None = None
        """Moment of the last question, by the monotonic clock. Jobs wait for its answer, so none is asked again at once."""

    @property
    def unix_s(self) -> float:
        return time.monotonic() + self._ahead_of_monotonic_s

    @property
    def skew_s(self) -> float:
        """Lead of this host's clock over the server's."""
        return unix_s() - self.unix_s

    @property
    def outdated(self) -> bool:
        return self._asked_at is None or time.monotonic() - self._asked_at > MEASURED_FOR_S

    def handle_stamp(self, stamp_unix_s: float) -> None:
        """Takes a stamp that the server has just made or made before. One from its future shows that its clock was set."""
        if stamp_unix_s > self.unix_s + WARN_SKEW_S:
            self._asked_at = None

    async def measure(self, bus: ControlBus, stream: str) -> None:
        """Asks the server for a stream, an answer that bears the time. It is as exact as half a round trip.

        Raises BusError; the clock goes on as before then."""
        self._asked_at = asked_at = time.monotonic()
        answer = await bus.request_raw(f"$JS.API.STREAM.INFO.{stream}", b"", _TIMEOUT_S)
        answered_at = time.monotonic()
        try:
            server_unix_s = datetime.fromisoformat(json.loads(answer.data)["ts"]).timestamp()
        except (ValueError, KeyError, TypeError) as error:
            raise StreamError(f"the server's answer about {stream} bears no time: {error!r}") from error
        self._ahead_of_monotonic_s = server_unix_s - (asked_at + answered_at) / 2
        if abs(self.skew_s) > WARN_SKEW_S:
            _log.warning(
                "clock_skew", skew_s=round(self.skew_s, 3), stream=stream, reason="this host's clock is not the server's"
            )

    async def keep(self, bus: ControlBus, stream: str) -> None:
        """Measures again when it is time to. An error leaves the clock as it was."""
        if self.outdated:
            try:
                await self.measure(bus, stream)
            except BusError as error:
                _log.warning("clock_not_measured", stream=stream, reason=str(error))
