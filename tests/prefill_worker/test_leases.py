"""Leases: asked for at intervals, and because of a transfer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from prfaas.bus.control import ControlBus
from prfaas.contracts.terms import Role
from prfaas.contracts.to_prefill import EgressLease
from prfaas.contracts.to_probe import EgressAsked
from prfaas.link.link import Link, LinkUser
from prfaas.worker.identity import Identity
from prfaas_prefill_worker import leases

DEADLINE_S = 60.0
NEVER_S = 3600.0


class Probe:
    """Answers each question with the same lease, and has none asked again."""

    def __init__(self, bytes_per_s: float | None) -> None:
        self.asked: list[EgressAsked] = []
        self._bytes_per_s = bytes_per_s

    async def request(self, subject: str, asked: EgressAsked, answer: Any, timeout_s: float) -> EgressLease:
        self.asked.append(asked)
        rate = self._bytes_per_s
        return EgressLease(bytes_per_s=rate, alone_bytes_per_s=rate, share=1.0, ask_again_s=NEVER_S)

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not what():
                await asyncio.sleep(0.001)


class User:
    can_write = False
    waiting_bytes = 0


@asynccontextmanager
async def leased(probe: Probe) -> AsyncIterator[Link]:
    link = Link(leased=True)
    identity = Identity("far", "p1", Role.PREFILL)
    asking = asyncio.create_task(leases.keep_leased(link, cast(ControlBus, probe), identity, "home"))
    await probe.until(lambda: len(probe.asked) == 1)
    yield link
    asking.cancel()


def join(link: Link) -> int:
    return link.join(cast(LinkUser, User()))


async def test_a_transfer_that_is_over_at_once_costs_no_question_where_no_rate_bounds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BRIEF_S", 0.2)
    probe = Probe(None)
    async with leased(probe) as link:
        link.leave(join(link))
        await probe.until(lambda: not link.started_or_ended.is_set())
        assert len(probe.asked) == 1
        key = join(link)
        await probe.until(lambda: len(probe.asked) == 2)
        link.leave(key)
        await probe.until(lambda: len(probe.asked) == 3)
    assert [asked.transfers for asked in probe.asked] == [0, 1, 0]


async def test_under_a_rate_the_first_transfer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BRIEF_S", NEVER_S)
    probe = Probe(1e6)
    async with leased(probe) as link:
        join(link)
        await probe.until(lambda: len(probe.asked) == 2)
    assert probe.asked[1].transfers == 1
