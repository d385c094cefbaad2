"""The API as the `openai` client sees it, over a real nats-server and the real HTTP server."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import openai
import pytest

from prfaas.contracts.to_decode import Generate
from prfaas.contracts.to_gateway import GenerateRefused, Refusal, TokenDetail, TokenLogprob
from prfaas.contracts.wire import unpack_tokens
from prfaas_gateway.generation import MAX_MOVES, MAX_PLACEMENTS
from tests.gateway.conftest import GROWING_S, Edge, until
from tests.gateway.scripted_site import PLACEMENT, Emitter
from tests.gateway.tiny_tokenizer import BOS, ids

MESSAGES: Any = [{"role": "user", "content": "hello world"}]


async def test_chat(edge: Edge) -> None:
    async with edge.openai() as client:
        answer = await client.chat.completions.create(model="tiny", messages=MESSAGES, seed=3, stop="x", max_tokens=9)
    assert answer.choices[0].message.content == "hello world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 4, 11)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert answer.system_fingerprint == "fp_0123456789ab"
    (generate,) = edge.site.generated
    assert unpack_tokens(generate.token_ids) == [BOS, *ids("user", ":", "hello", "world", "A", ":")]
    assert (generate.sampling.seed, generate.sampling.stop, generate.sampling.max_tokens) == (3, ("x", "\nQ:"), 9)
    (placed,) = edge.site.placed
    assert (placed.prompt_tokens, placed.max_tokens, placed.model) == (7, 9, "tiny")
    assert 0 < placed.ttft_deadline_s <= 30


async def test_chat_stream(edge: Edge) -> None:
    async with edge.openai() as client:
        stream = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    *texts, usage = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in texts) == "hello world"
    assert [chunk.choices[0].finish_reason for chunk in texts] == [None] * 4 + ["stop"]
    assert all(chunk.usage is None for chunk in texts)
    assert usage.usage is not None
    assert (usage.choices, usage.usage.total_tokens) == ([], 11)
    assert len({chunk.id for chunk in chunks}) == 1


async def test_completion_of_text_and_of_token_ids(edge: Edge) -> None:
    async with edge.openai() as client:
        answer = await client.completions.create(model="tiny", prompt="hello world")
        await client.completions.create(model="tiny", prompt=[3, 4])
        stream = await client.completions.create(model="tiny", prompt=["hello"], stream=True)
        text = "".join([chunk.choices[0].text async for chunk in stream])
    assert answer.choices[0].text == text == "hello world"
    assert [unpack_tokens(generate.token_ids) for generate in edge.site.generated] == [
        [BOS, *ids("hello", "world")],
        [3, 4],
        [BOS, *ids("hello")],
    ]
    assert edge.site.generated[0].sampling.max_tokens == 16
    assert edge.site.generated[0].sampling.stop == ()


async def test_fields_of_sampling_reach_the_decode_worker_in_tokens(edge: Edge) -> None:
    body = {
        "model": "tiny", "prompt": "hello", "presence_penalty": 0.5, "frequency_penalty": -1, "logit_bias": {"3": -100},
        "stop_token_ids": [4], "bad_words": ["hello world", " x "],
    }  # fmt: skip
    assert (await edge.http.post("/v1/completions", json=body)).status_code == 200
    (generate,) = edge.site.generated
    found = generate.sampling
    assert (found.presence_penalty, found.frequency_penalty, found.logit_bias) == (0.5, -1, ((3, -100),))
    assert (found.stop_token_ids, found.bad_words) == ((4,), (tuple(ids("hello", "world")), tuple(ids("x"))))


@pytest.mark.parametrize(("field", "value"), [("logit_bias", {"3": 1, "12": 1}), ("stop_token_ids", [3, 12])])
async def test_tokens_that_the_model_does_not_have_are_refused(edge: Edge, field: str, value: object) -> None:
    answer = await edge.http.post("/v1/completions", json={"model": "tiny", "prompt": "hello", field: value})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, field, "invalid_value")
    assert "Token id 12" in error["message"]
    assert not edge.site.placed


async def test_logprobs(edge: Edge) -> None:
    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        top = (TokenLogprob("hi", -0.5, (104, 105)), TokenLogprob("ho", -1.5, (104, 111)))
        await emit.tokens("hi", (TokenDetail(chosen=top[0], top=top),))
        await emit.finished(1, reason="length")

    edge.site.script = script
    async with edge.openai() as client:
        chat = await client.chat.completions.create(model="tiny", messages=MESSAGES, logprobs=True, top_logprobs=2)
        completion = await client.completions.create(model="tiny", prompt="hello", logprobs=2)
    assert [generate.sampling.top_logprobs for generate in edge.site.generated] == [2, 2]
    assert chat.choices[0].logprobs is not None
    assert chat.choices[0].logprobs.content is not None
    assert [item.token for item in chat.choices[0].logprobs.content[0].top_logprobs] == ["hi", "ho"]
    assert completion.choices[0].logprobs is not None
    assert completion.choices[0].logprobs.top_logprobs == [{"hi": -0.5, "ho": -1.5}]
    assert chat.choices[0].finish_reason == "length"


async def test_a_long_whole_answer_with_alternatives_arrives_whole(edge: Edge) -> None:
    top = tuple(TokenLogprob(f"t{number}", -0.5 - number, (), number) for number in range(20))
    details = tuple(TokenDetail(chosen=top[3], top=top, text_offset=offset) for offset in range(100))

    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        for _ in range(10):
            await emit.tokens("hi" * 100, details)
        await emit.finished(10, reason="length")

    edge.site.script = script
    async with edge.openai() as client:
        chat = await client.chat.completions.create(model="tiny", messages=MESSAGES, logprobs=True, top_logprobs=20)
        completion = await client.completions.create(model="tiny", prompt="hello", logprobs=5)
    assert chat.choices[0].message.content == "hi" * 1000
    assert chat.choices[0].logprobs is not None and chat.choices[0].logprobs.content is not None
    assert [len(item.top_logprobs) for item in chat.choices[0].logprobs.content] == [20] * 1000
    assert completion.choices[0].logprobs is not None
    assert completion.choices[0].logprobs.text_offset == list(range(100)) * 10
    assert completion.choices[0].logprobs.top_logprobs == [{f"t{number}": -0.5 - number for number in range(20)}] * 1000


async def test_models(edge: Edge) -> None:
    async with edge.openai() as client:
        assert [model.id async for model in client.models.list()] == ["tiny"]
        assert (await client.models.retrieve("tiny")).owned_by == "prfaas"
        with pytest.raises(openai.NotFoundError, match="does not exist here; this endpoint serves `tiny`"):
            await client.models.retrieve("gpt-5")


async def test_headers_say_where_the_prefill_ran_and_why(edge: Edge) -> None:
    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.started(reason="über\r\nx-evil: 1 " + "long " * 200)
        await emit.finished(0)

    edge.site.script = script
    for stream in (False, True):
        answer = await edge.post(
            "/v1/completions", {"model": "tiny", "prompt": "x", "stream": stream}, x_request_id="mine", x_correlation_id="c"
        )
        assert answer.headers["x-prfaas-outcome"] == "offloaded"
        assert answer.headers["x-prfaas-prefill-site"] == "east"
        assert answer.headers["x-prfaas-reason"].startswith("?ber??x-evil: 1 long")
        assert answer.headers["x-request-id"] == "mine"
        assert "x-evil" not in answer.headers
        assert "x-prfaas-trace-id" not in answer.headers


async def test_a_request_id_is_made_when_none_is_given(edge: Edge) -> None:
    ids = {(await edge.post("/v1/completions", {"model": "tiny", "prompt": "x"})).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2


async def test_the_report_comes_only_when_asked_for(edge: Edge) -> None:
    body = {"model": "tiny", "prompt": "x", "stream": True, "stream_options": {"include_usage": True}}
    plain = await edge.post("/v1/completions", body)
    asked = await edge.post("/v1/completions", body, x_prfaas_report="1")
    assert "prfaas" not in plain.text
    usage = json.loads(asked.text.split("\n\n")[-3].removeprefix("data: "))["usage"]
    assert usage["prfaas"]["prefill_site"] == "east"
    assert usage["prfaas"]["transfer"]["bytes"] == 1000


async def test_the_deadline_of_a_request_travels_with_it(edge: Edge) -> None:
    await edge.post("/v1/completions", {"model": "tiny", "prompt": "x"}, x_prfaas_ttft_deadline_s="599.5")
    assert 60 < edge.site.placed[0].ttft_deadline_s <= 599.5
    assert 60 < edge.site.generated[0].ttft_deadline_s <= edge.site.placed[0].ttft_deadline_s


@pytest.mark.parametrize(("refusal", "status", "retry_after"), [
    (Refusal(code="overloaded", message="all 2 workers are full", retry_after_s=61.2), 429, "62"),
    (Refusal(code="no_decode_worker", message="none is alive", retry_after_s=61.0), 503, "61"),
])  # fmt: skip
async def test_a_refused_placement(edge: Edge, refusal: Refusal, status: int, retry_after: str) -> None:
    edge.site.placement = refusal
    body = {"model": "tiny", "prompt": "x", "stream": True}
    answer = await edge.post("/v1/completions", body, x_prfaas_ttft_deadline_s="60")
    assert (answer.status_code, answer.headers["retry-after"]) == (status, retry_after)
    assert answer.json()["error"]["code"] == refusal.code
    assert answer.json()["error"]["message"] == f"{refusal.message.capitalize()}."
    assert edge.site.generated == []


@pytest.mark.parametrize(("code", "status"), [("overloaded", 429), ("draining", 503), ("cache_too_small", 400)])
async def test_a_refusing_worker(edge: Edge, code: str, status: int) -> None:
    edge.site.refusal = GenerateRefused(request_id="r", code=code, message="no", retry_after_s=1)
    for deadline_s in GROWING_S:
        answer = await edge.post("/v1/completions", {"model": "tiny", "prompt": "x"}, x_prfaas_ttft_deadline_s=deadline_s)
        if answer.json()["error"]["code"] != "deadline":  # on a busy machine the refusal may come too late
            break
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert ("retry-after" in answer.headers) == (status != 400)


async def test_a_worker_that_is_gone_or_refuses_is_no_concern_of_the_client(edge: Edge) -> None:
    edge.site.placement = msgspec.structs.replace(PLACEMENT, decode_worker="gone")
    answer = await edge.post("/v1/completions", {"model": "tiny", "prompt": "x"})
    assert (answer.status_code, answer.json()["choices"][0]["text"]) == (200, "hello world")
    assert [request.refused_by for request in edge.site.placed] == [(), ("gone",)]
    assert len({request.request_id for request in edge.site.placed}) == 1


async def test_a_try_is_placed_a_bounded_number_of_times(edge: Edge) -> None:
    edge.site.refusal = GenerateRefused(request_id="r", code="draining", message="it drains", retry_after_s=1)
    asking = asyncio.create_task(edge.post("/v1/completions", {"model": "tiny", "prompt": "x"}))
    await until(lambda: len(edge.site.placed) > MAX_PLACEMENTS)
    edge.site.refusal = None
    assert (await asking).status_code == 200
    transfers = [generate.placement.transfer_id for generate in edge.site.generated]
    assert transfers == ["t", *(f"t-p{number}" for number in range(2, len(transfers) + 1))], "no two jobs may have one name"
    tries = [len(request.refused_by) for request in edge.site.placed]
    assert tries[: MAX_PLACEMENTS + 1] == [0, 1, 2, 0], "then it begins anew, with all workers"


async def test_the_second_placement_may_be_refused(edge: Edge) -> None:
    edge.site.placement = msgspec.structs.replace(PLACEMENT, decode_worker="gone")
    edge.site.placement_again = Refusal(code="overloaded", message="all others are full", retry_after_s=61)
    answer = await edge.post("/v1/completions", {"model": "tiny", "prompt": "x"}, x_prfaas_ttft_deadline_s="60")
    assert (answer.status_code, answer.json()["error"]["message"]) == (429, "All others are full.")
    assert edge.site.generated == []


async def test_a_request_that_no_worker_could_take_is_refused_at_once(edge: Edge) -> None:
    edge.site.refusal = GenerateRefused(request_id="r", code="cache_too_small", message="it never fits", retry_after_s=1)
    answer = await edge.post("/v1/completions", {"model": "tiny", "prompt": "x"})
    assert answer.status_code == 400
    assert len(edge.site.generated) == 1


@pytest.mark.parametrize(("retry_after_s", "status"), [(1.0, 503), (None, 500)])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_start_is_a_plain_http_error(
    edge: Edge, stream: bool, retry_after_s: float | None, status: int
) -> None:
    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.failed("corrupt", "the KV did not verify", retry_after_s)

    edge.site.script = script
    answer = await edge.post("/v1/completions", {"model": "tiny", "prompt": "x", "stream": stream})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert answer.json()["error"] == {
        "message": "The KV did not verify.", "type": "server_error", "param": None, "code": "corrupt",
    }  # fmt: skip
    assert edge.site.cancelled.empty()


async def test_a_failure_after_the_first_token_ends_the_stream_with_an_error(edge: Edge) -> None:
    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await emit.tokens("hel")
        await emit.failed("engine", "out of memory")

    edge.site.script = script
    async with edge.openai() as client:
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        texts = []
        with pytest.raises(openai.APIError, match="Out of memory"):
            async for chunk in stream:
                texts.append(chunk.choices[0].delta.content)
                assert chunk.choices[0].finish_reason is None
        assert texts == ["", "hel"]
        with pytest.raises(openai.InternalServerError, match="Out of memory"):
            await client.chat.completions.create(model="tiny", messages=MESSAGES)
    raw = await edge.post("/v1/chat/completions", {"model": "tiny", "messages": MESSAGES, "stream": True})
    assert "[DONE]" not in raw.text
    assert json.loads(raw.text.split("\n\n")[-2].removeprefix("data: "))["error"]["code"] == "engine"


@pytest.mark.parametrize(("code", "retry_after_s", "asked"), [("engine", None, 1), ("text", None, 1), ("corrupt", 0.1, 2)])
async def test_openais_client_asks_again_only_where_that_may_help(
    edge: Edge, code: str, retry_after_s: float | None, asked: int
) -> None:
    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.failed(code, "it cannot be done", retry_after_s)

    edge.site.script = script
    async with edge.openai(max_retries=1) as client:
        with pytest.raises(openai.InternalServerError):
            await client.completions.create(model="tiny", prompt="x")
    assert len(edge.site.generated) == asked


async def test_an_unknown_path_is_not_asked_for_again(edge: Edge) -> None:
    answer = await edge.post("/v1/nothing", {})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (404, "false")


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
async def test_events_that_are_lost_again_and_again_are_an_error_and_never_lost_text(edge: Edge, stream: bool) -> None:
    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await emit.tokens("hel")
        emit.sequence += 1
        await emit.tokens("world")
        await emit.finished(3)

    edge.site.script = script
    answer = await edge.post("/v1/completions", {"model": "tiny", "prompt": "x", "stream": stream})
    assert "events_lost" in answer.text
    assert "world" not in answer.text
    assert "[DONE]" not in answer.text
    assert answer.status_code == (200 if stream else 503)
    reasons = [(await edge.site.cancellation()).reason for _ in range(1 + MAX_MOVES)]
    assert reasons[:-1] == ["the request was placed again"] * MAX_MOVES
    assert "events of decode worker 'decode-1' did not arrive" in reasons[-1]


@pytest.mark.parametrize("broken", [
    lambda request_id: msgspec.msgpack.encode({"type": "Tokens", "request_id": request_id, "sequence": "one"}),
    lambda request_id: msgspec.msgpack.encode({"type": "OfNextYear", "request_id": request_id, "sequence": 1}),
    lambda request_id: b"\x82\xaarequest_id" + msgspec.msgpack.encode(request_id) + b"\xa4more" + b"\x91" * 5000 + b"\xc0",
], ids=["wrong type", "unknown kind", "nested"])  # fmt: skip
@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
async def test_an_event_that_cannot_be_decoded_ends_its_own_request_only(
    edge: Edge, broken: Callable[[str], bytes], stream: bool
) -> None:
    both_started = asyncio.Barrier(2)
    victim_over = asyncio.Event()

    async def script(generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await emit.tokens("hel")
        if "-" not in generate.request_id:  # the first placement
            await both_started.wait()
        if generate.sampling.seed == 1:
            await emit.raw(broken(generate.request_id))
            await emit.raw(b"names no request")
            # Too deeply nested to read whose it is: the next event shows that one is missing.
            emit.sequence += 1
            await emit.tokens("lo")
        await victim_over.wait()
        await emit.tokens("lo")
        await emit.finished(2)

    edge.site.script = script
    body = {"model": "tiny", "prompt": "x", "stream": stream}
    victim = asyncio.create_task(edge.post("/v1/completions", {**body, "seed": 1}))
    other = asyncio.create_task(edge.post("/v1/completions", {**body, "seed": 2}))
    answer = await victim
    assert answer.status_code == (200 if stream else 503)
    assert "events_lost" in answer.text and "[DONE]" not in answer.text
    cancelled = await edge.site.cancellation()
    assert cancelled.request_id in {generate.request_id for generate in edge.site.generated if generate.sampling.seed == 1}
    victim_over.set()
    assert (await other).status_code == 200
    assert "events_lost" not in (await other).text
    assert edge.metric("prfaas_request_failures_total", code="events_lost") == 1
