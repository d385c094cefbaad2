"""Both connections of a process that moves KV: control and bulk, to its own site's server."""

from typing import NamedTuple, Self

from prfaas.bus.bulk import BulkLane
from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint

CONNECT_TIMEOUT_S = 10.0


class SiteConnections(NamedTuple):
    bus: ControlBus
    lane: BulkLane

    @classmethod
    async def open(cls, control: NatsEndpoint, bulk: NatsEndpoint, name: str) -> Self:
        """Raises NotConnectedError, LaneError."""
        bus = await ControlBus.connect(control, name, CONNECT_TIMEOUT_S)
        try:
            lane = await BulkLane.connect(bulk, name=name, timeout_s=CONNECT_TIMEOUT_S)
        except BaseException:
            await bus.drain()
            raise
        return cls(bus, lane)

    def down(self) -> str | None:
        """Reason not to be ready, when one of the two is down now."""
        if not self.bus.connected:
            return "the control connection to the site's NATS server is down"
        if not self.lane.is_connected:
            return "the bulk connection to the site's NATS server is down"
        return None

    async def close(self) -> None:
        await self.lane.close()
        await self.bus.drain()
