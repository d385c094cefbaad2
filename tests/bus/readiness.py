"""Parts of the services' tests of readiness: reasons to wait for, and streams that are lost and cannot be made again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import nats
from nats.js.errors import APIError, NotFoundError

from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.presence import ensure_bucket
from prfaas.contracts import subjects
from prfaas.process.runner import Service
from prfaas.process.tasks import Tasks
from prfaas.stack.nats_server import NatsServer

DEADLINE_S = 60.0


async def until_ready(ready: Callable[[], str | None]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while ready() is not None:
            await asyncio.sleep(0.01)


async def until_reason(ready: Callable[[], str | None], part: str) -> None:
    """Waits for a reason that holds `part`."""
    async with asyncio.timeout(DEADLINE_S):
        while part not in (ready() or ""):
            await asyncio.sleep(0.01)


@asynccontextmanager
async def ready_worker(worker: Service, server: NatsServer, site: str) -> AsyncIterator[None]:
    """Starts a worker. It is not ready before a scheduler has made the bucket of its site's workers."""
    await worker.start()
    await until_reason(worker.ready, "cannot be announced")
    bus = await ControlBus.connect(NatsEndpoint(url=server.client_url), "scheduler")
    await ensure_bucket(bus, subjects.workers_bucket(site))
    await bus.drain()
    await until_ready(worker.ready)
    yield
    await until_ready(worker.ready)


async def lose_server(service: Service, server: NatsServer, tasks: Tasks) -> None:
    """Stops the server, which the service notices, and then the service."""
    await server.stop()
    await until_reason(service.ready, "connection to the site's NATS server is down")
    await tasks.cancel_all(DEADLINE_S)
    await service.stop()
    assert not tasks.failed.done(), tasks.failed.result()


@asynccontextmanager
async def stream_taken(url: str, name_start: str) -> AsyncIterator[None]:
    """Deletes the stream whose name begins so. Until the end, another one has its subjects: the server refuses it then."""
    client = await nats.connect(url)
    try:
        jetstream = client.jetstream()
        (config,) = [info.config for info in await jetstream.streams_info() if (info.config.name or "").startswith(name_start)]
        async with asyncio.timeout(DEADLINE_S):
            while True:
                # Its owner may make it again in between.
                with suppress(NotFoundError):
                    await jetstream.delete_stream(config.name or "")
                try:
                    await jetstream.add_stream(name="taken", subjects=config.subjects)
                    break
                except APIError:
                    continue
        yield
        await jetstream.delete_stream("taken")
    finally:
        await client.close()
