"""Requests whose decode worker is lost, and go on at another one: no token twice, none missing, and not for ever."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prfaas.contracts.to_decode import Generate
from prfaas.contracts.wire import unpack_tokens
from prfaas_gateway.generation import MAX_MOVES
from tests.gateway.conftest import Edge, running_edge, until
from tests.gateway.scripted_site import WORKER, Emitter

WORDS = ("one", " two", " three", " four")


def counts_to_four(stops_after: int) -> Any:
    """Says the words that are not sent yet, and falls silent after some of them; the second placement says all."""

    async def script(generate: Generate, emit: Emitter) -> None:
        sent = len(unpack_tokens(generate.sent_token_ids))
        first = "-" not in generate.request_id
        if first and stops_after < 0:
            await asyncio.Event().wait()
        await emit.started(prefill_site="east" if first else "west")
        for word in WORDS[sent : stops_after if first else None]:
            await emit.tokens(word)
        if first:
            await asyncio.Event().wait()
        await emit.finished(len(WORDS))

    return script


@pytest.fixture
async def edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Edge]:
    monkeypatch.setattr("prfaas_gateway.decode_workers.SUPERSEDED_AFTER_S", 0.1)
    async with running_edge(tmp_path, worker_grace_s=0.05) as edge:
        yield edge


async def come_back_as_another(edge: Edge) -> None:
    edge.site.incarnation = "i2"
    await edge.site.announce(WORKER)


def has_run(edge: Edge, placements: int) -> bool:
    return len(edge.site.running) == placements


async def leave(edge: Edge) -> None:
    await edge.site.announce(WORKER, gone=True)


def body(answer: str) -> tuple[str, dict[str, Any]]:
    """Returns text and usage of a stream of a plain completion."""
    chunks = [json.loads(line.removeprefix("data: ")) for line in answer.splitlines() if line.startswith("data: {")]
    assert all("error" not in chunk for chunk in chunks), chunks
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]), chunks[-1]["usage"]


@pytest.mark.parametrize("stops_after", [-1, 0, 1, 3, 4])
@pytest.mark.parametrize("lose", [come_back_as_another, leave])
async def test_an_answer_goes_on_where_its_worker_was_lost(edge: Edge, stops_after: int, lose: Any) -> None:
    edge.site.script = counts_to_four(stops_after)
    await edge.site.announce(WORKER)
    request = {"model": "tiny", "prompt": "x", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 4}
    asking = asyncio.create_task(edge.post("/v1/completions", request, **{"x_prfaas_report": "1"}))
    sent = max(0, stops_after)
    await until(lambda: edge.site.running and edge.metric("vllm:generation_tokens_total", model_name="tiny") == sent)
    await lose(edge)
    answer = await asking
    assert answer.status_code == 200
    text, usage = body(answer.text)
    assert text == "one two three four" and usage["completion_tokens"] == len(WORDS)
    assert usage["prfaas"]["moves"] == 1
    assert usage["prfaas"]["prefill_site"] == "west", "its end was decoded from KV of the second one"
    begun = 1 + (stops_after >= 0)
    assert edge.metric("prfaas_tenant_link_bytes_total", tenant="") == 1000 * begun, "both have shipped KV for it"
    first, second = edge.site.generated
    assert second.request_id == f"{first.request_id}-1", "events of the two are told apart"
    assert second.token_ids == first.token_ids and len(unpack_tokens(second.sent_token_ids)) == sent
    assert edge.site.placed[1].prompt_tokens == edge.site.placed[0].prompt_tokens
    assert (await edge.site.cancellation()).request_id == first.request_id, "it may only be slow"
    assert edge.metric("prfaas_gateway_moved_requests_total") == 1


async def test_a_worker_that_does_not_say_whether_it_has_begun_is_left(tmp_path: Path) -> None:
    async with running_edge(tmp_path, control_deadline_s=0.3) as edge:
        edge.site.answers_generate = False
        edge.site.script = counts_to_four(0)
        asking = asyncio.create_task(edge.post("/v1/completions", {"model": "tiny", "prompt": "x"}))
        await until(lambda: edge.site.generated)
        edge.site.answers_generate = True
        answer = await asking
        assert answer.status_code == 200 and answer.json()["choices"][0]["text"] == "one two three four"
        assert answer.headers["x-prfaas-prefill-site"] == "west"
        assert (WORKER,) in [request.refused_by for request in edge.site.placed]


async def test_a_request_that_loses_its_worker_again_and_again_ends(edge: Edge) -> None:
    async def never(_generate: Generate, _emit: Emitter) -> None:
        await asyncio.Event().wait()

    edge.site.script = never
    asking = asyncio.create_task(edge.post("/v1/completions", {"model": "tiny", "prompt": "x"}))
    for placement in range(1 + MAX_MOVES):
        await until(partial(has_run, edge, placement + 1))
        await edge.site.announce(WORKER)
        await edge.site.announce(WORKER, gone=True)
    answer = await asking
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "decode_worker_lost"


async def test_an_answer_goes_on_after_an_event_that_was_lost(edge: Edge) -> None:
    async def loses_one(generate: Generate, emit: Emitter) -> None:
        sent = len(unpack_tokens(generate.sent_token_ids))
        await emit.started()
        for word in WORDS[sent:]:
            emit.sequence += not sent and word == WORDS[2]
            await emit.tokens(word)
        await emit.finished(len(WORDS))

    edge.site.script = loses_one
    answer = await edge.post("/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 4}, x_prfaas_report="1")
    assert answer.status_code == 200 and answer.json()["choices"][0]["text"] == "".join(WORDS)
    assert answer.json()["usage"]["prfaas"]["detours"] == {"answer_gap": 1}


async def test_an_answer_whose_last_events_are_lost_goes_on(edge: Edge) -> None:
    """Nothing follows that would show the gap: the worker is asked how far it is."""

    async def loses_the_end(generate: Generate, emit: Emitter) -> None:
        sent = len(unpack_tokens(generate.sent_token_ids))
        await emit.started()
        for word in WORDS[sent:]:
            await emit.tokens(word)
        if sent:
            await emit.finished(len(WORDS))

    edge.site.script = loses_the_end
    answer = await edge.post("/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 4}, x_prfaas_report="1")
    assert answer.status_code == 200 and answer.json()["choices"][0]["text"] == "".join(WORDS)
    assert answer.json()["usage"]["prfaas"]["detours"] == {"answer_gap": 1}


@pytest.mark.parametrize("lost", [range(1, 3), range(3, 6), range(0, 6)], ids=["in the middle", "at the end", "all"])
async def test_events_that_a_connection_took_with_it_are_sent_again_and_not_computed_again(edge: Edge, lost: range) -> None:
    async def loses_some(_generate: Generate, emit: Emitter) -> None:
        for number in range(6):
            emit.loses = number in lost
            match number:
                case 0:
                    await emit.started()
                case 5:
                    await emit.finished(len(WORDS))
                case _:
                    await emit.tokens(WORDS[number - 1])

    edge.site.script, edge.site.sends_again = loses_some, True
    answer = await edge.post("/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 4}, x_prfaas_report="1")
    assert answer.status_code == 200 and answer.json()["choices"][0]["text"] == "".join(WORDS)
    assert len(edge.site.generated) == 1 and not answer.json()["usage"]["prfaas"].get("detours")


async def test_a_worker_that_has_no_connection_is_left_although_its_heartbeat_is_there(edge: Edge) -> None:
    edge.site.script = counts_to_four(1)
    asking = asyncio.create_task(edge.post("/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 4}))
    await until(lambda: edge.site.running)
    await edge.site.announce(WORKER)
    await edge.site.go_deaf()
    answer = await asking
    assert answer.status_code == 200 and answer.json()["choices"][0]["text"] == "".join(WORDS)
