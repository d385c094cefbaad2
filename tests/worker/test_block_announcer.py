"""Schedulers hear what a prefix cache took in and gave up, in batches, and can ask for all of it."""

import asyncio
from collections.abc import Iterable

import pytest

from prfaas.bus.control import ControlBus
from prfaas.contracts import subjects
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import BlocksChanged, BlocksHeld
from prfaas.kvcache.block_pool import Changes, Tier
from prfaas.kvcache.blocks import is_flagged, pack_hashes, unpack_hashes
from prfaas.worker import block_announcer
from prfaas.worker.block_announcer import BlockAnnouncer
from prfaas.worker.identity import Identity
from tests.bus.conftest import Connect

DEADLINE_S = 60.0


class Heard:
    """Blocks that one site's scheduler would know."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[BlocksChanged] = asyncio.Queue()
        self.held: set[int] = set()
        self.sequences: list[int] = []

    async def until(self, expected: Iterable[int]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.held != set(expected):
                changed = await self.messages.get()
                self.sequences.append(changed.sequence)
                self.held = self.held - set(unpack_hashes(changed.removed)) | set(unpack_hashes(changed.stored))


async def announcer(bus: ControlBus, sites: list[str]) -> tuple[BlockAnnouncer, asyncio.Task[None]]:
    blocks = BlockAnnouncer(bus, Identity("far", "p1", Role.PREFILL), incarnation="i1", sites=sites)
    await blocks.start()
    return blocks, asyncio.create_task(blocks.run())


async def test_every_site_hears_batches_without_gaps(connect: Connect) -> None:
    bus, other = await connect("worker"), await connect("schedulers")
    heard = {site: Heard() for site in ("east", "west")}
    for site, each in heard.items():
        await other.subscribe(subjects.all_blocks(site), BlocksChanged, each.messages.put_nowait)
    blocks, running = await announcer(bus, list(heard))
    for block in range(1000):
        blocks.changed(Changes({block: Tier.MEMORY}, []))
    blocks.changed(Changes({}, [0]))  # never told of at all
    for each in heard.values():
        await each.until(range(1, 1000))
        assert each.sequences == [1]
    blocks.changed(Changes({5000: Tier.MEMORY}, [1, 2]))
    for each in heard.values():
        await each.until([*range(3, 1000), 5000])
        assert each.sequences == [1, 2]
    running.cancel()


async def test_who_missed_some_asks_for_all(connect: Connect) -> None:
    bus, other = await connect("worker"), await connect("scheduler")
    blocks, running = await announcer(bus, [])
    subject = subjects.held_blocks("far", "prefill", "p1")
    nothing = await other.request(subject, None, BlocksHeld, DEADLINE_S)
    assert (nothing.sequence, nothing.hashes) == (0, b"")
    blocks.changed(Changes(dict.fromkeys((3, 1, 2), Tier.MEMORY), []))
    blocks.changed(Changes({}, [1]))
    held = await other.request(subject, None, BlocksHeld, DEADLINE_S)
    assert (held.incarnation, list(unpack_hashes(held.hashes))) == (nothing.incarnation, [3, 2])
    running.cancel()


async def test_messages_stay_within_what_a_server_takes(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_announcer, "MAX_HASHES", 100)
    bus, other = await connect("worker"), await connect("scheduler")
    heard = Heard()
    await other.subscribe(subjects.all_blocks("east"), BlocksChanged, heard.messages.put_nowait)
    blocks, running = await announcer(bus, ["east"])
    blocks.changed(Changes(dict.fromkeys(range(250), Tier.MEMORY), []))
    await heard.until(range(250))
    assert heard.sequences == [1, 2, 3]
    held = await other.request(subjects.held_blocks("far", "prefill", "p1"), None, BlocksHeld, DEADLINE_S)
    assert (held.sequence, held.hashes) == (3, pack_hashes(range(100)))
    running.cancel()


async def test_the_tier_is_told_and_told_again_when_it_changes(connect: Connect) -> None:
    bus, other = await connect("worker"), await connect("scheduler")
    messages: asyncio.Queue[BlocksChanged] = asyncio.Queue()
    await other.subscribe(subjects.all_blocks("east"), BlocksChanged, messages.put_nowait)
    blocks, running = await announcer(bus, ["east"])
    blocks.changed(Changes({1: Tier.MEMORY, 2: Tier.DISK, 3: Tier.MEMORY}, []))
    first = await asyncio.wait_for(messages.get(), DEADLINE_S)
    assert [is_flagged(first.on_disk, index) for index in range(3)] == [False, True, False]
    blocks.changed(Changes({3: Tier.DISK}, []))  # pushed out of memory
    blocks.changed(Changes({2: Tier.MEMORY}, [3]))
    blocks.changed(Changes({3: Tier.DISK}, []))
    second = await asyncio.wait_for(messages.get(), DEADLINE_S)
    assert list(unpack_hashes(second.stored)) == [2, 3] and second.removed == b""
    assert [is_flagged(second.on_disk, index) for index in range(2)] == [False, True]
    held = await other.request(subjects.held_blocks("far", "prefill", "p1"), None, BlocksHeld, DEADLINE_S)
    on_disk = {hash: is_flagged(held.on_disk, index) for index, hash in enumerate(unpack_hashes(held.hashes))}
    assert on_disk == {1: False, 2: False, 3: True}
    running.cancel()
