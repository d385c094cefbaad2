import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.presence import Announcer, ensure_bucket, put_entry, watch
from prfaas.contracts import subjects
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat, LinkEstimate
from prfaas.contracts.wire import encode
from prfaas.site.sites import load_description
from prfaas.stack.launch import DEMO
from prfaas.stack.nats_server import NatsServer, plain_config
from prfaas.stack.running_sites import RunningSites
from prfaas.wan import LinkChange, LinkState

DEADLINE_S = 60.0
BUCKET = subjects.workers_bucket("local")
TTL_S, LONG_TTL_S = 1.0, 3600.0
"""Time until an entry expires, where its expiry is waited for, and where it must not expire however slow the machine."""


def make_beat(worker: str = "w1", site: str = "local", running: int = 0) -> Heartbeat:
    return Heartbeat(
        site=site,
        worker=worker,
        role=Role.PREFILL,
        model="m",
        fingerprint="f",
        max_context_tokens=1,
        running=running,
    )


class Change(NamedTuple):
    key: str
    beat: Heartbeat | None


class Seen:
    """Entries that a watch has told, to wait for."""

    def __init__(self) -> None:
        self.changes: asyncio.Queue[Change] = asyncio.Queue()

    def __call__(self, key: str, beat: Heartbeat | None) -> None:
        self.changes.put_nowait(Change(key, beat))

    async def until(self, key: str, *, gone: bool = False, running: int | None = None) -> Heartbeat | None:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                change = await self.changes.get()
                if change.key != key or (change.beat is None) is not gone:
                    continue
                if running is None or (change.beat is not None and change.beat.running == running):
                    return change.beat


@asynccontextmanager
async def watching(bus: ControlBus, ttl_s: float = TTL_S) -> AsyncIterator[Seen]:
    seen = Seen()
    task = asyncio.create_task(watch(bus, BUCKET, Heartbeat, seen, ttl_s=ttl_s))
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def announcing(announcer: Announcer) -> AsyncIterator[Announcer]:
    task = asyncio.create_task(announcer.run())
    try:
        yield announcer
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A domain of its own, which the subject of a put names."""
    async with NatsServer(tmp_path / "nats", partial(plain_config, name="local", domain="local")) as running:
        yield running


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[ControlBus]:
    connected = await ControlBus.connect(NatsEndpoint(url=server.client_url), "test")
    yield connected
    await connected.drain()


async def test_beats_are_heard_with_their_changes_until_silence(bus: ControlBus) -> None:
    running = 0
    async with watching(bus) as seen:
        async with announcing(Announcer(bus, ["local"], lambda: make_beat(running=running), 0.1)) as announcer:
            assert await seen.until("local.prefill.w1") == make_beat()
            running = 7
            await announcer.beat()
            await seen.until("local.prefill.w1", running=7)
        await seen.until("local.prefill.w1", gone=True)


async def test_who_comes_later_learns_who_is_there(bus: ControlBus) -> None:
    await ensure_bucket(bus, BUCKET, LONG_TTL_S)
    await put_entry(bus, BUCKET, make_beat("w1"))
    await put_entry(bus, BUCKET, make_beat("w2", running=1))
    await put_entry(bus, BUCKET, make_beat("w2", running=2))
    seen = Seen()
    task = asyncio.create_task(watch(bus, BUCKET, Heartbeat, seen, ttl_s=LONG_TTL_S))
    await seen.until("local.prefill.w1")
    await seen.until("local.prefill.w2", running=2)
    task.cancel()
    await asyncio.wait([task])
    assert sorted(await (await bus.jetstream().key_value(BUCKET)).keys()) == ["local.prefill.w1", "local.prefill.w2"]


async def test_a_withdrawal_is_heard_at_once(bus: ControlBus) -> None:
    await ensure_bucket(bus, BUCKET, LONG_TTL_S)
    announcer = Announcer(bus, ["local"], make_beat, interval_s=5.0)
    seen = Seen()
    task = asyncio.create_task(watch(bus, BUCKET, Heartbeat, seen, ttl_s=LONG_TTL_S))
    async with announcing(announcer):
        await seen.until("local.prefill.w1")
    await announcer.withdraw()
    await seen.until("local.prefill.w1", gone=True)
    task.cancel()
    await asyncio.wait([task])


async def test_an_entry_of_the_wrong_kind_is_passed_over(bus: ControlBus) -> None:
    await ensure_bucket(bus, BUCKET, LONG_TTL_S)
    async with watching(bus, LONG_TTL_S) as seen:
        await put_entry(bus, BUCKET, LinkEstimate(source="a", destination="b", rtt_s=0, goodput_bytes_per_s=0, samples=0))
        await put_entry(bus, BUCKET, make_beat())
        assert await seen.changes.get() == Change("local.prefill.w1", make_beat())


async def test_an_entry_on_the_subject_of_another_worker_is_passed_over(bus: ControlBus) -> None:
    await ensure_bucket(bus, BUCKET, LONG_TTL_S)
    async with watching(bus, LONG_TTL_S) as seen:
        await bus.request_raw(subjects.entry(BUCKET, "local.prefill.w2"), encode(make_beat("w1")), DEADLINE_S)
        await put_entry(bus, BUCKET, make_beat("w2"))
        assert await seen.changes.get() == Change("local.prefill.w2", make_beat("w2"))


@pytest.mark.parametrize("lose_store", [False, True])
async def test_a_killed_server_and_a_lost_store_are_survived(server: NatsServer, bus: ControlBus, lose_store: bool) -> None:
    async with watching(bus) as seen, announcing(Announcer(bus, ["local"], make_beat, 0.1)):
        await seen.until("local.prefill.w1")
        server.kill()
        await seen.until("local.prefill.w1", gone=True)
        if lose_store:
            server.drop_store()
        await server.restart()
        await seen.until("local.prefill.w1")
        async with asyncio.timeout(DEADLINE_S):  # and the bucket is there again
            while (await server.monitor("jsz"))["streams"] != 1:
                continue


async def test_a_worker_of_another_site_is_seen_across_the_link_and_its_cut(tmp_path: Path) -> None:
    async with RunningSites(load_description(DEMO), tmp_path) as sites:
        local = await ControlBus.connect(sites.endpoint("local", "ctl"), "scheduler")
        remote = await ControlBus.connect(sites.endpoint("remote", "ctl"), "worker")
        link = sites.links["remote", "local"]
        beat = make_beat("prefill-worker", site="remote")
        async with watching(local) as seen, announcing(Announcer(remote, ["local"], lambda: beat, 0.2)):
            assert await seen.until(beat.key) == beat
            await link.change(LinkChange(state=LinkState.CUT))
            await seen.until(beat.key, gone=True)
            await link.change(LinkChange(state=LinkState.UP))
            assert await seen.until(beat.key) == beat
        await local.drain()
        await remote.drain()


async def test_link_estimates_are_entries_too(bus: ControlBus) -> None:
    bucket = subjects.links_bucket("local")
    estimate = LinkEstimate(source="remote", destination="local", rtt_s=0.02, goodput_bytes_per_s=25e6, samples=3)
    heard: asyncio.Queue[tuple[str, LinkEstimate | None]] = asyncio.Queue()
    task = asyncio.create_task(watch(bus, bucket, LinkEstimate, lambda key, value: heard.put_nowait((key, value))))
    announcer = Announcer(bus, ["local"], lambda: estimate, 0.1, bucket=subjects.links_bucket)
    async with announcing(announcer):
        assert await asyncio.wait_for(heard.get(), DEADLINE_S) == ("remote.local", estimate)
    task.cancel()
    await asyncio.wait([task])
