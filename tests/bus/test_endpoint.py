"""Addresses of a site's servers, of which a cluster has several."""

import pytest

from prfaas.bus.bulk import BulkLane
from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.stack.nats_server import NatsServer


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nats://a", ""),
        ("nats://a:1,nats://[::1]:2", ""),
        ("tls://a:1,tls://b:2", ""),
        ("nats://a:1,tls://b:2", "has servers with and without TLS"),
        ("nats://a:1,", "has no scheme"),
        ("nats://a:1, nats://b:2", "has no host"),
        ("nats://a:1,http://b:2", "has the scheme 'http'"),
        ("nats://a:1,nats://b:0", "has the port 0"),
        ("nats://a:1,nats://b/c", "has more than a host and a port"),
        ("", "has no scheme"),
    ],
)
def test_what_is_wrong_with_an_address_is_said(url: str, problem: str) -> None:
    assert NatsEndpoint(url=url).problem() == problem


async def test_a_server_that_is_not_there_is_passed_over(server: NatsServer) -> None:
    for urls in (f"nats://127.0.0.1:1,{server.client_url}", f"{server.client_url},nats://127.0.0.1:1"):
        endpoint = NatsEndpoint(url=urls)
        lane = await BulkLane.connect(endpoint, name="lane", timeout_s=30.0)
        await lane.close()
        bus = await ControlBus.connect(endpoint, "control", timeout_s=30.0)
        await bus.drain()
