"""Requests of gateways that come and go at a real server."""

import asyncio
from typing import Any

import pytest
from nats.aio.msg import Msg

from prfaas.bus.control import ControlBus
from prfaas.contracts import subjects
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_decode import Generate, Sampling
from prfaas.contracts.to_gateway import Placement
from prfaas.contracts.wire import pack_tokens
from prfaas_decode_worker.gateway_watch import GatewayWatch
from prfaas_decode_worker.request import Request
from tests.bus.conftest import Connect
from tests.bus.conftest import connect as connect
from tests.bus.conftest import server as server

SITE = "home"
DEADLINE_S = 60.0
PLACEMENT = Placement(
    transfer_id="t", prefill_site=SITE, decode_worker="d0", outcome=Outcome.LOCAL_SHORT, reason="", fallback_after_s=1.0
)


class NoText:
    def new_text(self, sampling: Sampling) -> Any:
        return None

    def token_bytes(self, token_id: int) -> bytes:
        return b""


def request(request_id: str, gateway: str, incarnation: str) -> Request:
    generate = Generate(
        request_id=request_id,
        model="m",
        placement=PLACEMENT,
        token_ids=pack_tokens([1, 2]),
        sampling=Sampling(max_tokens=1),
        reply_to="x",
        gateway=gateway,
        gateway_incarnation=incarnation,
        ttft_deadline_s=10.0,
    )
    return Request.of(generate, NoText(), lambda tokens: tokens, 0.0)


async def answer_as(bus: ControlBus, gateway: str, incarnation: str) -> asyncio.Queue[None]:
    """Returns a queue with an item for each question."""
    asked: asyncio.Queue[None] = asyncio.Queue()

    async def answer(question: Msg) -> None:
        asked.put_nowait(None)
        await bus.publish_raw(question.reply, b"")

    await bus.subscribe_raw(subjects.gateway_alive(SITE, gateway, incarnation), answer)
    await bus.client.flush()
    return asked


@pytest.mark.parametrize("comes_back", [False, True])
async def test_the_requests_of_a_dead_gateway_are_given_up_and_no_others(connect: Connect, comes_back: bool) -> None:
    worker, dies, lives = await connect("worker"), await connect("dies"), await connect("lives")
    questions = [await answer_as(dies, "g0", "i"), await answer_as(lives, "g1", "i")]
    requests = {
        each.request_id: each
        for each in (request("a", "g0", "i"), request("b", "g1", "i"), request("c", "g0", ""), request("d", "g0", "i"))
    }
    given_up: asyncio.Queue[str] = asyncio.Queue()

    def give_up(request_id: str) -> None:
        del requests[request_id]
        given_up.put_nowait(request_id)

    watching = asyncio.create_task(GatewayWatch(worker, SITE, requests, give_up).run())
    try:
        async with asyncio.timeout(DEADLINE_S):
            for asked in 2 * questions:
                await asked.get()
        assert given_up.empty()
        await dies.client.close()
        if comes_back:
            await answer_as(lives, "g0", "j")
        async with asyncio.timeout(DEADLINE_S):
            assert {await given_up.get(), await given_up.get()} == {"a", "d"}
        assert set(requests) == {"b", "c"}
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def test_a_gateway_whose_name_another_process_has_too_keeps_its_requests(connect: Connect) -> None:
    worker, first, twin = await connect("worker"), await connect("first"), await connect("twin")
    await answer_as(twin, "g0", "j")
    asked = await answer_as(first, "g0", "i")
    requests = {"a": request("a", "g0", "i")}
    given_up: list[str] = []
    watching = asyncio.create_task(GatewayWatch(worker, SITE, requests, given_up.append).run())
    try:
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(6):
                await asked.get()
        assert given_up == []
    finally:
        watching.cancel()
        await asyncio.wait([watching])
