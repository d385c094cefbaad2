"""A worker's life on a real bus: its draining is announced before it ends its work, and its leaving after."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.presence import watch
from prfaas.contracts import subjects
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas.process.runner import ServiceContext
from prfaas.process.tasks import Tasks
from prfaas.stack.nats_server import NatsServer, plain_config
from prfaas.telemetry.tracing import Tracing
from prfaas.worker.identity import Identity
from prfaas.worker.lifecycle import WorkerLifecycle
from tests.bus.conftest import Connect

DEADLINE_S = 60.0
SITE = "home"
IDENTITY = Identity(SITE, "w0", Role.PREFILL)


@dataclass
class ScriptedWorker:
    """Work that ends when the test says so. `story` has what was announced and what the worker did, in order."""

    story: list[str] = field(default_factory=list)
    missing: str | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def problem(self) -> str | None:
        return self.missing

    async def finish_work(self) -> None:
        self.tell("finish work")
        await self.over.wait()

    def resume_work(self) -> None:
        self.tell("resume work")

    async def leave(self) -> None:
        self.tell("leave")

    def heard(self, key: str, beat: Heartbeat | None) -> None:
        if key == f"{SITE}.prefill.w0":
            draining = "draining" if beat is not None and beat.draining else "taking work"
            self.tell(draining if beat is not None else "gone")

    def tell(self, event: str) -> None:
        if event not in self.story[-1:]:
            self.story.append(event)
            self.changed.set()

    async def until(self, *story: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.story[-len(story) :] != list(story):
                self.changed.clear()
                await self.changed.wait()


class Place:
    def __init__(self, server: NatsServer, bus: ControlBus) -> None:
        self.worker, self.tasks, self.endpoint = ScriptedWorker(), Tasks(), NatsEndpoint(url=server.client_url)
        context = ServiceContext(self.tasks, CollectorRegistry(), Tracing())
        self.lifecycle = WorkerLifecycle(IDENTITY, context, self.worker, movable=False)
        self.tasks.spawn("watch", watch(bus, subjects.workers_bucket(SITE), Heartbeat, self.worker.heard))

    async def start(self) -> None:
        await self.lifecycle.connect(self.endpoint, self.endpoint)
        await self.lifecycle.announce([SITE], self.heartbeat)
        await self.worker.until("taking work")

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(
            site=SITE,
            worker="w0",
            role=Role.PREFILL,
            model="m",
            fingerprint="f",
            max_context_tokens=1,
            draining=self.lifecycle.leaving,
        )


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A domain of its own, which the subject of an announcement names."""
    async with NatsServer(tmp_path / "nats", partial(plain_config, domain=SITE)) as running:
        yield running


@pytest.fixture
async def place(server: NatsServer, connect: Connect) -> AsyncIterator[Place]:
    place = Place(server, await connect("scheduler"))
    yield place
    assert not await place.tasks.cancel_all(DEADLINE_S)
    await place.lifecycle.close()
    assert not place.tasks.failed.done()


async def test_a_drain_is_announced_then_waits_for_what_runs_then_leaves(place: Place) -> None:
    await place.start()
    assert place.lifecycle.ready() is None
    draining = asyncio.create_task(place.lifecycle.drain())
    async with asyncio.timeout(DEADLINE_S):
        while not {"draining", "finish work"} <= set(place.worker.story):
            await asyncio.sleep(0.01)
    assert not draining.done() and "gone" not in place.worker.story
    place.worker.over.set()
    await asyncio.wait_for(draining, DEADLINE_S)
    assert place.worker.story.index("finish work") < place.worker.story.index("leave")
    async with asyncio.timeout(DEADLINE_S):
        while "gone" not in place.worker.story:
            await asyncio.sleep(0.01)


async def test_a_worker_is_not_ready_without_what_its_role_needs(place: Place) -> None:
    await place.start()
    assert place.lifecycle.ready() is None
    place.worker.missing = "the bucket is full"
    assert place.lifecycle.ready() == "the bucket is full"


async def test_a_drain_that_is_given_up_takes_work_again(place: Place) -> None:
    await place.start()
    finishing = asyncio.create_task(place.lifecycle.finish())
    async with asyncio.timeout(DEADLINE_S):
        while not {"draining", "finish work"} <= set(place.worker.story):
            await asyncio.sleep(0.01)
    finishing.cancel()
    await asyncio.wait([finishing])
    await place.lifecycle.resume()
    assert not place.lifecycle.leaving and "resume work" in place.worker.story
    await place.worker.until("taking work")


async def test_a_start_that_failed_half_way_closes_what_is_open(place: Place) -> None:
    await place.lifecycle.close()
    connections = await place.lifecycle.connect(place.endpoint, place.endpoint)
    await place.lifecycle.close()
    assert not connections.lane.is_connected
