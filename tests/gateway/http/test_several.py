"""Requests for several answers, over a real nats-server and the real HTTP server."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from prfaas.contracts.to_decode import Generate
from prfaas.contracts.to_gateway import TokenDetail, TokenLogprob
from prfaas.contracts.wire import unpack_tokens
from prfaas.secrets.tenants_file import Limits
from prfaas_gateway.openai.choices import seed_of
from tests.gateway.conftest import Edge, make_tenants, running_edge, until
from tests.gateway.scripted_site import DEADLINE_S, Emitter, say_hello

pytestmark = pytest.mark.asyncio(loop_scope="module")
LOCAL = {"model": "tiny", "prompt": "hello"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path_factory.mktemp("edge"), max_choices=6) as edge:
        yield edge


@pytest_asyncio.fixture(loop_scope="module")
async def edge(running: Edge) -> Edge:
    running.site.script = say_hello
    running.site.generated.clear()
    while not running.site.cancelled.empty():
        running.site.cancelled.get_nowait()
    return running


def choice_of(generate: Generate) -> int:
    return int(generate.request_id.partition("-c")[2] or 0)


async def say_which(generate: Generate, emit: Emitter) -> None:
    """The answer is the choice's number; the likeliest one is the third."""
    await emit.started()
    choice = choice_of(generate)
    chosen = TokenLogprob(str(choice), -abs(choice - 2.0), (48 + choice,))
    await emit.tokens(str(choice), () if generate.sampling.top_logprobs is None else (TokenDetail(chosen=chosen),))
    await emit.finished(2)


async def test_the_choices_of_a_chat_have_indices_seeds_and_one_usage(edge: Edge) -> None:
    edge.site.script = say_which
    async with edge.openai() as client:
        messages: Any = [{"role": "user", "content": "hello"}]
        answer = await client.chat.completions.create(model="tiny", messages=messages, n=3, seed=5)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [(0, "0"), (1, "1"), (2, "2")]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 3 * 2)
    by_choice = sorted(edge.site.generated, key=choice_of)
    assert [generate.sampling.seed for generate in by_choice] == [seed_of(5, choice) for choice in range(3)]
    assert len({generate.token_ids for generate in by_choice}) == 1


async def test_prompts_and_their_choices_come_in_openais_order(edge: Edge) -> None:
    edge.site.script = say_which
    body = {"model": "tiny", "prompt": [[3], [4, 5], [6]], "n": 2, "seed": 5}
    answer = (await edge.http.post("/v1/completions", json=body)).json()
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(each, str(each)) for each in range(6)]
    assert answer["usage"]["prompt_tokens"] == 4
    by_choice = sorted(edge.site.generated, key=choice_of)
    assert [unpack_tokens(generate.token_ids) for generate in by_choice] == [[3], [3], [4, 5], [4, 5], [6], [6]]
    assert [generate.sampling.seed for generate in by_choice] == [5, seed_of(5, 1)] * 3, (
        "a prompt's answers are those it has alone"
    )


async def test_texts_may_come_as_a_list_too(edge: Edge) -> None:
    async with edge.openai() as client:
        answer = await client.completions.create(model="tiny", prompt=["hello", "world x"])
    assert [choice.text for choice in answer.choices] == ["hello world"] * 2
    assert answer.usage is not None and answer.usage.prompt_tokens == 2 + 3


async def test_the_first_choice_goes_ahead_so_that_the_others_find_its_prefill(edge: Edge) -> None:
    may_start = asyncio.Event()

    async def script(generate: Generate, emit: Emitter) -> None:
        if not choice_of(generate):
            await may_start.wait()
        await say_which(generate, emit)

    edge.site.script = script
    asking = asyncio.create_task(edge.http.post("/v1/completions", json={**LOCAL, "n": 3}))
    await until(lambda: len(edge.site.generated) == 1)
    # One whole request is through meanwhile: what would have been placed has been.
    edge.site.script = say_hello
    assert (await edge.http.post("/v1/completions", json=LOCAL)).status_code == 200
    assert len(edge.site.generated) == 2
    edge.site.script = script
    may_start.set()
    assert [choice["text"] for choice in (await asking).json()["choices"]] == ["0", "1", "2"]


async def test_a_stream_of_several_choices(edge: Edge) -> None:
    async with edge.openai() as client:
        stream = await client.completions.create(
            model="tiny", prompt="hello", n=3, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    texts = dict.fromkeys(range(3), "")
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == dict.fromkeys(range(3), "hello world")
    usage = chunks[-1].usage
    assert usage is not None and (usage.prompt_tokens, usage.completion_tokens) == (2, 12)


async def test_the_best_of_several(edge: Edge) -> None:
    edge.site.script = say_which
    answer = (await edge.http.post("/v1/completions", json={**LOCAL, "n": 2, "best_of": 4})).json()
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(0, "2"), (1, "1")]
    assert [choice["logprobs"] for choice in answer["choices"]] == [None, None]
    assert answer["usage"]["completion_tokens"] == 8
    shown = (await edge.http.post("/v1/completions", json={**LOCAL, "best_of": 4, "logprobs": 0})).json()
    assert shown["choices"][0]["logprobs"]["token_logprobs"] == [0.0]


@pytest.mark.parametrize("stream", [False, True])
async def test_one_failing_choice_ends_the_request_and_all_the_others(edge: Edge, stream: bool) -> None:
    others_run = asyncio.Event()
    seen: set[int] = set()

    async def script(generate: Generate, emit: Emitter) -> None:
        await emit.started()
        seen.add(choice_of(generate))
        if len(seen) == 3:
            others_run.set()
        await emit.tokens("x")
        if choice_of(generate) == 1:
            await others_run.wait()
            await emit.failed("engine", "the engine failed in a decode step")
        else:
            await asyncio.sleep(DEADLINE_S)

    edge.site.script = script
    answer = await edge.http.post("/v1/completions", json={**LOCAL, "n": 3, "stream": stream})
    if stream:
        assert answer.status_code == 200
        assert "[DONE]" not in answer.text
        error = json.loads(answer.text.rstrip().rpartition("data: ")[2])["error"]
    else:
        assert answer.status_code == 500
        error = answer.json()["error"]
    assert (error["code"], error["message"]) == ("engine", "The engine failed in a decode step.")
    cancelled = [await edge.site.cancellation() for _ in range(2)]
    assert {cancel.request_id.partition("-c")[2] for cancel in cancelled} == {"", "2"}
    assert all("another choice of the request has failed" in cancel.reason for cancel in cancelled)


async def test_a_client_that_leaves_ends_all_choices(edge: Edge) -> None:
    async def script(generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await asyncio.sleep(DEADLINE_S)

    edge.site.script = script
    asking = asyncio.create_task(edge.http.post("/v1/completions", json={**LOCAL, "n": 3}))
    await until(lambda: len(edge.site.generated) == 3)
    asking.cancel()
    assert {(await edge.site.cancellation()).request_id.partition("-c")[2] for _ in range(3)} == {"", "1", "2"}


async def test_more_choices_than_are_allowed_reach_no_worker(edge: Edge) -> None:
    answer = await edge.http.post("/v1/completions", json={**LOCAL, "n": 7})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
    assert not edge.site.generated


async def test_a_tenants_limits_count_every_choice(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"small": Limits(requests_at_once=2, tokens_per_minute=100)})
    async with running_edge(tmp_path, tenants_file=path) as edge:
        authorization = {"authorization": f"Bearer {keys['small']}"}

        async def ask(**fields: Any) -> Any:
            return await edge.http.post("/v1/completions", json={**LOCAL, **fields}, headers=authorization)

        refused = await ask(n=3, max_tokens=1)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "request_exceeds_limit")
        assert "3 answers at once" in refused.json()["error"]["message"]
        assert (await ask(n=2, max_tokens=60)).json()["error"]["code"] == "request_exceeds_limit", "2 + 120 tokens"
        answer = await ask(n=2, max_tokens=20)
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) == 100 - 2 - 2 * 20
        assert edge.metric("prfaas_tenant_tokens_total", tenant="") == 2 + 2 * 4
