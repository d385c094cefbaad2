"""Tells schedulers what a worker's prefix cache holds: changes in batches, and all of it to a scheduler that missed some."""

import asyncio
from collections.abc import Sequence
from itertools import islice

from nats.aio.msg import Msg

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError
from prfaas.contracts import subjects
from prfaas.contracts.to_scheduler import BlocksChanged, BlocksHeld
from prfaas.contracts.wire import encode
from prfaas.kvcache.block_pool import Changes, Tier
from prfaas.kvcache.blocks import pack_flags, pack_hashes
from prfaas.telemetry.logs import get_logger
from prfaas.worker.identity import Identity

INTERVAL_S = 0.1
"""Shortest time between two messages: what changes meanwhile goes together."""
MAX_HASHES = 65_536
"""Hashes in one message: 512 KiB, half of what a server takes by default."""

_log = get_logger(__name__)


class BlockAnnouncer:
    def __init__(self, bus: ControlBus, identity: Identity, *, incarnation: str, sites: Sequence[str]) -> None:
        """Tells the schedulers of `sites`."""
        self._bus = bus
        self._identity = identity
        self._sites = tuple(sites)
        self._incarnation = incarnation
        self._sequence = 0
        self._held: dict[int, Tier] = {}
        """Hashes in the order in which they were stored, so that the first ones are whole beginnings of prompts."""
        self._news: dict[int, bool] = {}
        """Blocks whose change is not told yet: hash -> is it one that schedulers were told of as held?"""
        self._woken = asyncio.Event()

    async def start(self) -> None:
        """Raises BusError."""
        site, worker, role = self._identity
        await self._bus.subscribe_raw(subjects.held_blocks(site, role.value, worker), self._tell_all)

    def changed(self, changes: Changes) -> None:
        for block in changes.removed:
            told = self._news.get(block, block in self._held)
            self._held.pop(block, None)
            self._news.pop(block, None)
            if told:
                self._news[block] = True
        for block, tier in changes.stored.items():
            told = self._news.pop(block, block in self._held)
            self._held[block] = tier
            self._news[block] = told
        if self._news:
            self._woken.set()

    async def run(self) -> None:
        while True:
            await self._woken.wait()
            await self._tell(self._take())
            if not self._news:
                self._woken.clear()
            await asyncio.sleep(INTERVAL_S)

    def _take(self) -> BlocksChanged:
        news = list(islice(self._news, MAX_HASHES))
        for block in news:
            del self._news[block]
        stored = [block for block in news if block in self._held]
        self._sequence += 1
        return BlocksChanged(
            site=self._identity.site,
            worker=self._identity.worker,
            role=self._identity.role,
            incarnation=self._incarnation,
            sequence=self._sequence,
            stored=pack_hashes(stored),
            on_disk=pack_flags(self._held[block] is Tier.DISK for block in stored),
            removed=pack_hashes(block for block in news if block not in self._held),
        )

    async def _tell(self, changed: BlocksChanged) -> None:
        """Best effort: a lost one leaves a gap in the numbers, and the scheduler asks."""
        own_site, worker, role = self._identity
        for site in self._sites:
            try:
                await self._bus.publish(subjects.blocks(site, own_site, role.value, worker), changed)
            except BusError as error:
                _log.warning("blocks_not_announced", to_site=site, reason=str(error))

    async def _tell_all(self, asked: Msg) -> None:
        first = list(islice(self._held, MAX_HASHES))
        held = BlocksHeld(
            incarnation=self._incarnation,
            sequence=self._sequence,
            hashes=pack_hashes(first),
            on_disk=pack_flags(self._held[block] is Tier.DISK for block in first),
        )
        await self._bus.publish_raw(asked.reply, encode(held))
