from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.stack.nats_server import NatsServer

Connect = Callable[..., Awaitable[ControlBus]]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def connect(server: NatsServer) -> AsyncIterator[Connect]:
    """Connections to the server, drained at the end."""
    buses: list[ControlBus] = []

    async def open_bus(name: str = "test", url: str | None = None) -> ControlBus:
        bus = await ControlBus.connect(NatsEndpoint(url=url or server.client_url), name)
        buses.append(bus)
        return bus

    yield open_bus
    for bus in buses:
        await bus.drain()
