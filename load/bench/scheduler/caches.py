"""Caches of the fleet's workers: conversations that go on, all of which begin with the same system prompt."""

import random
from array import array
from collections import deque
from collections.abc import Iterator
from itertools import chain, count

from load.bench.scheduler.fleet import LENGTHS, Fleet
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import BlocksChanged, Heartbeat

BLOCK_TOKENS = 512
SYSTEM_BLOCKS = 4
"""2,048 tokens that every worker holds."""
REUSE = 0.7
"""Share of the requests that continue a conversation that some worker still holds."""
NEW_BLOCKS = 8
"""Most new blocks that a continued conversation brings."""
HASHES_PER_MESSAGE = 16_384
_INCARNATION = "bench"


class Caches:
    """Each conversation is held by one prefill and one decode worker, until it has to make room for a new one."""

    def __init__(self, fleet: Fleet, blocks: int, seed: int) -> None:
        """`blocks`: pairs of worker and block, about."""
        self._random = random.Random(seed)
        self._beats = {beat.key: beat for beat in fleet.beats}
        self._keys = {role: [beat.key for beat in fleet.beats if beat.role is role] for role in Role}
        self._numbers = {key: count(1) for key in self._beats}
        self._system = array("Q", (self._random.getrandbits(64) for _ in range(SYSTEM_BLOCKS)))
        self._held: dict[str, deque[array[int]]] = {key: deque() for key in self._beats}
        self._live: list[array[int]] = []
        self.blocks = SYSTEM_BLOCKS * len(self._beats) if blocks else 0
        while self.blocks < blocks:
            conversation = self._fresh(round(LENGTHS.quantile(self._random.random())))
            self._live.append(conversation)
            for keys in self._keys.values():
                self._held[self._random.choice(keys)].append(conversation)
                self.blocks += len(conversation)

    def prompt(self) -> tuple[int, "array[int]"]:
        """(tokens, hashes of its whole blocks)."""
        if self._live and self._random.random() < REUSE:
            known = self._system + self._random.choice(self._live)
            hashes = known + self._fresh(self._random.randint(1, NEW_BLOCKS) * BLOCK_TOKENS)
            return len(hashes) * BLOCK_TOKENS + self._random.randrange(BLOCK_TOKENS), hashes
        tokens = round(LENGTHS.quantile(self._random.random()))
        return tokens, (self._system + self._fresh(tokens))[: tokens // BLOCK_TOKENS]

    def stored(self, worker: Heartbeat) -> BlocksChanged:
        """A new conversation in the place of the worker's oldest."""
        key = worker.key
        conversation = self._fresh(round(LENGTHS.quantile(self._random.random())))
        removed = self._held[key].popleft() if self._held[key] else array("Q")
        self._held[key].append(conversation)
        self._live[self._random.randrange(len(self._live))] = conversation
        return self._changed(worker, conversation, removed)

    def announced(self) -> Iterator[BlocksChanged]:
        """All that is held, in messages as large as a bus takes."""
        if not self.blocks:
            return
        for key, conversations in self._held.items():
            hashes = array("Q", chain(self._system, *conversations))
            for start in range(0, len(hashes), HASHES_PER_MESSAGE):
                yield self._changed(self._beats[key], hashes[start : start + HASHES_PER_MESSAGE], array("Q"))

    def _fresh(self, tokens: int) -> "array[int]":
        return array("Q", (self._random.getrandbits(64) for _ in range(tokens // BLOCK_TOKENS)))

    def _changed(self, worker: Heartbeat, stored: "array[int]", removed: "array[int]") -> BlocksChanged:
        return BlocksChanged(
            site=worker.site,
            worker=worker.worker,
            role=worker.role,
            incarnation=_INCARNATION,
            sequence=next(self._numbers[worker.key]),
            stored=bytes(stored),
            removed=bytes(removed),
        )
