"""Requests beyond what decode workers take: held while their deadline can be met, refused at once when not."""

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_decode import Generate
from prfaas.contracts.to_gateway import GenerateRefused, Refusal
from tests.gateway.conftest import Edge, running_edge, until
from tests.gateway.scripted_site import FULL, PLACEMENT, SITE, Emitter, say_hello

ASK = {"model": "tiny", "prompt": "hello"}


def answers_take(edge: Edge, answer_s: float) -> None:
    async def script(generate: Generate, emit: Emitter) -> None:
        await asyncio.sleep(answer_s)
        await say_hello(generate, emit)

    edge.site.script = script


async def statuses(edge: Edge, count: int, timeout_s: str) -> Counter[int]:
    asks = [edge.post("/v1/completions", ASK, x_prfaas_ttft_deadline_s=timeout_s) for _ in range(count)]
    return Counter(answer.status_code for answer in await asyncio.gather(*asks))


async def test_a_burst_of_200_requests_is_served_within_its_deadline(tmp_path: Path) -> None:
    async with running_edge(tmp_path) as edge:
        edge.site.slots = 32
        answers_take(edge, 0.05)
        edge.http.timeout = 60
        assert await statuses(edge, 200, "50") == {200: 200}
        assert edge.metric("prfaas_gateway_waiting_requests") == 0


async def test_what_cannot_be_served_in_time_is_refused_at_once_with_an_honest_time(tmp_path: Path) -> None:
    places = asyncio.Semaphore(0)

    async def script(generate: Generate, emit: Emitter) -> None:
        await places.acquire()
        await say_hello(generate, emit)

    async with running_edge(tmp_path) as edge:
        edge.site.slots = 1
        edge.site.script = script
        held = asyncio.create_task(statuses(edge, 100, "500"))
        for place in range(1, 7):  # the pace is known then: no more than one place every 0.1 s, and 94 are to come
            await asyncio.sleep(0.1)
            places.release()
            await until(partial(answered, edge, place))
        answer = await edge.post("/v1/completions", ASK, x_prfaas_ttft_deadline_s="5")
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")
        assert "requests wait before this one" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) > 5
        for _ in range(94):
            places.release()
        assert await held == {200: 100}


def answered(edge: Edge, count: int) -> bool:
    return edge.metric("prfaas_gateway_responses_total", endpoint="completions", status="200") >= count


@pytest.mark.parametrize("refusal", [
    FULL,
    Refusal(code="no_decode_worker", message="none is alive", retry_after_s=0.1),
])  # fmt: skip
async def test_a_refusal_that_passes_is_waited_for(edge: Edge, refusal: Refusal) -> None:
    edge.site.placement = refusal
    asking = asyncio.create_task(edge.post("/v1/completions", ASK))
    await until(lambda: len(edge.site.placed) >= 3)
    edge.site.placement = PLACEMENT
    assert (await asking).status_code == 200


async def test_what_is_too_late_already_does_not_wait_to_be_later_still(edge: Edge) -> None:
    edge.site.placement = Refusal(code="not_in_time", message="no prefill worker comes to it within 32.0 s", retry_after_s=2.4)
    answer = await edge.post("/v1/completions", ASK)
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) == (429, "not_in_time", "3")
    assert len(edge.site.placed) == 1


async def test_a_worker_that_is_full_for_a_moment_is_waited_for(edge: Edge) -> None:
    edge.site.refusal = GenerateRefused(request_id="r", code="overloaded", message="full", retry_after_s=1)
    asking = asyncio.create_task(edge.post("/v1/completions", ASK))
    await until(lambda: len(edge.site.generated) >= 4)
    edge.site.refusal = None
    assert (await asking).status_code == 200


async def test_a_silent_scheduler_is_waited_for(tmp_path: Path) -> None:
    async with running_edge(tmp_path, control_deadline_s=0.3) as edge:
        edge.site.answers_place = False
        asking = asyncio.create_task(edge.post("/v1/completions", ASK))
        await until(lambda: len(edge.site.placed) >= 2)
        edge.site.answers_place = True
        assert (await asking).status_code == 200


async def test_a_refuser_that_says_to_come_back_after_the_deadline_is_believed(edge: Edge) -> None:
    edge.site.placement = Refusal(code="overloaded", message="all workers are full", retry_after_s=67)
    answer = await edge.post("/v1/completions", ASK, x_prfaas_ttft_deadline_s="60")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "67")
    assert len(edge.site.placed) == 1


async def test_a_client_that_leaves_the_line_asks_nothing_more(edge: Edge) -> None:
    edge.site.placement = FULL
    asking = asyncio.create_task(edge.post("/v1/completions", ASK))
    await until(lambda: edge.metric("prfaas_gateway_waiting_requests") == 1)
    asking.cancel()
    await until(lambda: edge.metric("prfaas_gateway_waiting_requests") == 0)
    await until(lambda: edge.service.requests_running == 0)
    assert edge.site.cancelled.empty()


async def test_a_short_prompt_is_placed_at_home_while_no_scheduler_answers(tmp_path: Path) -> None:
    async with running_edge(tmp_path, control_deadline_s=0.3, unscheduled_after_s=0.5) as edge:
        await until(lambda: edge.service.ready() is None)  # it hears heartbeats
        edge.site.answers_place = False
        edge.site.announces_home = True
        answer = await edge.post("/v1/completions", ASK, x_prfaas_report="1")
        assert answer.status_code == 200
        (generate,) = edge.site.generated
        placement = generate.placement
        assert (placement.outcome, placement.prefill_site) == (Outcome.LOCAL_NO_SCHEDULER, SITE)
        detours = answer.json()["usage"]["prfaas"]["detours"]
        assert detours["placed_by_gateway"] == 1 and detours["waited_for_scheduler"] >= 1
        assert edge.metric("prfaas_gateway_detours_total", detour="placed_by_gateway") == 1


async def test_a_long_prompt_waits_for_a_scheduler(tmp_path: Path) -> None:
    async with running_edge(tmp_path, control_deadline_s=0.3, unscheduled_after_s=0.0, unscheduled_tokens=1) as edge:
        await until(lambda: edge.service.ready() is None)  # it hears heartbeats
        edge.site.answers_place = False
        edge.site.announces_home = True
        asking = asyncio.create_task(edge.post("/v1/completions", ASK))
        await until(lambda: len(edge.site.placed) >= 2)
        assert not edge.site.generated
        edge.site.answers_place = True
        assert (await asking).status_code == 200


async def test_a_placement_of_an_earlier_leadership_is_asked_for_again(edge: Edge) -> None:
    edge.site.placement = replace(PLACEMENT, term=5)
    assert (await edge.post("/v1/completions", ASK)).status_code == 200
    edge.site.placement = replace(PLACEMENT, term=4)
    asking = asyncio.create_task(edge.post("/v1/completions", ASK))
    await until(lambda: len(edge.site.placed) >= 3)
    assert len(edge.site.generated) == 1
    edge.site.placement = replace(PLACEMENT, term=6)
    assert (await asking).status_code == 200
