"""Events that were lost with the gateway's connection to the bus.

An answer that goes on shows the gap by itself. One whose last events were lost shows nothing: it is doubted after a loss.
"""

import asyncio
from typing import Final

from prfaas.bus.control import ControlBus
from prfaas_gateway.in_flight import InFlight

DOUBTED_FOR_S: Final = 3.0
"""Time in which something more must come of an answer that has begun. Decode workers pause until they are connected again."""
_LOOK_EVERY_S: Final = 0.2


async def watch_losses(bus: ControlBus, in_flight: InFlight) -> None:
    """Doubts all running answers each time that the connection is back, until cancelled."""
    losses = bus.losses
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        if bus.losses != losses and bus.connected:
            losses = bus.losses
            in_flight.doubt(DOUBTED_FOR_S)
