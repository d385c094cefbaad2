"""Schedulers of one site at a real server: one leads, another follows it, and a stopped one does not act when it wakes."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.stack.nats_server import NatsServer, plain_config
from prfaas_scheduler.leadership.leadership import Leadership

DEADLINE_S = 60.0
SITE = "home"


class Member:
    """One scheduler's leadership, on a connection of its own."""

    def __init__(self, bus: ControlBus, name: str) -> None:
        self.bus = bus
        self.leadership = Leadership(SITE, name, f"i-{name}")
        self.running: asyncio.Task[None] | None = None

    async def start(self) -> "Member":
        await self.leadership.open(self.bus)
        self.go_on()
        return self

    def go_on(self) -> None:
        self.running = asyncio.create_task(self.leadership.run())

    async def stand_still(self) -> None:
        """Renews and looks no more, as a stopped process; its connection stays."""
        assert self.running is not None
        self.running.cancel()
        await asyncio.wait([self.running])

    async def end(self) -> None:
        await self.stand_still()
        await self.bus.drain()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path / "nats", partial(plain_config, domain=SITE)) as running:
        yield running


async def joined(server: NatsServer, name: str) -> Member:
    return await Member(await ControlBus.connect(NatsEndpoint(url=server.client_url, site=SITE), name), name).start()


async def until_leads(member: Member) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not member.leadership.leads:
            await asyncio.sleep(0.01)


async def until_known(member: Member, holder: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while member.leadership.holder != holder:
            await asyncio.sleep(0.01)


async def test_another_one_leads_when_the_leader_is_gone(server: NatsServer) -> None:
    first = await joined(server, "first")
    await until_leads(first)
    second = await joined(server, "second")
    await until_known(second, "first")
    assert not second.leadership.leads and second.leadership.term == 1
    await first.end()
    assert not first.leadership.leads
    await until_leads(second)
    assert second.leadership.term == 2
    await second.end()


async def test_a_stopped_leader_has_a_successor_and_does_not_act_when_it_wakes(server: NatsServer) -> None:
    first, second = await joined(server, "first"), await joined(server, "second")
    async with asyncio.timeout(DEADLINE_S):
        while not (first.leadership.leads or second.leadership.leads):
            await asyncio.sleep(0.01)
    stopped, other = (first, second) if first.leadership.leads else (second, first)
    await stopped.stand_still()
    await until_leads(other)
    assert not stopped.leadership.leads, "its lease was over before the other one's began"
    stopped.go_on()
    await until_known(stopped, other.leadership.holder)
    assert other.leadership.leads and not stopped.leadership.leads
    await first.end()
    await second.end()


async def test_one_that_leaves_hands_over(server: NatsServer) -> None:
    first = await joined(server, "first")
    await until_leads(first)
    second = await joined(server, "second")
    await until_known(second, "first")
    await first.stand_still()
    await first.leadership.release()
    assert not first.leadership.leads
    await until_leads(second)
    await first.bus.drain()
    await second.end()


async def test_leadership_is_found_again_after_the_server_has_lost_it(server: NatsServer) -> None:
    members = [await joined(server, name) for name in ("first", "second")]
    async with asyncio.timeout(DEADLINE_S):
        while not any(member.leadership.leads for member in members):
            await asyncio.sleep(0.01)
    server.kill()
    async with asyncio.timeout(DEADLINE_S):
        while any(member.leadership.leads for member in members):
            await asyncio.sleep(0.01)
    await server.start()
    async with asyncio.timeout(DEADLINE_S):
        while not any(member.leadership.leads for member in members):
            await asyncio.sleep(0.01)
    assert sum(member.leadership.leads for member in members) == 1
    for member in members:
        await member.end()
