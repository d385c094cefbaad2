"""A plain client of a running site's server, of a user that the endpoint names."""

import asyncio
from pathlib import Path

import nats
from nats.aio.client import Client

from prfaas.bus.endpoint import NatsEndpoint


async def connect(endpoint: NatsEndpoint, refusals: list[str] | None = None) -> Client:
    """Connects once, without reconnecting, and collects the server's refusals. Raises nats.errors.Error."""

    async def note(error: Exception) -> None:
        if refusals is not None:
            refusals.append(str(error))

    seed = None if endpoint.nkey_seed_file is None else await asyncio.to_thread(Path(endpoint.nkey_seed_file).read_text)
    client = Client()
    try:
        await client.connect(endpoint.url, nkeys_seed_str=seed, allow_reconnect=False, error_cb=note)
    except nats.errors.Error:
        await client.close()
        raise
    return client
