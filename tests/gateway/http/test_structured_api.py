"""Structured output over HTTP: what a decode worker is told, and refusals."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from tests.gateway.conftest import Edge

MESSAGES: Any = [{"role": "user", "content": "hello world"}]


class Person(BaseModel):
    name: str
    age: int | None


async def test_the_clients_own_parsing_asks_for_a_schema(edge: Edge) -> None:
    async def say_person(_generate: Any, emit: Any) -> None:
        await emit.started()
        await emit.tokens('{"name": "Ada", ')
        await emit.tokens('"age": null}')
        await emit.finished(3)

    edge.site.script = say_person
    async with edge.openai() as client:
        answer = await client.chat.completions.parse(model="tiny", messages=MESSAGES, response_format=Person)
    assert answer.choices[0].message.parsed == Person(name="Ada", age=None)
    (generate,) = edge.site.generated
    (part,) = json.loads(generate.sampling.grammar)["grammars"]
    assert part["json_schema"]["properties"]["age"]["anyOf"] == [{"type": "integer"}, {"type": "null"}]
    assert generate.sampling.stop == (), "the model's own end of turn may stand inside of the text"


@pytest.mark.parametrize("schema", [{"type": "strin"}, {"enum": ["x" * 40_000]}])
async def test_a_schema_that_cannot_be_used_reaches_no_worker(edge: Edge, schema: dict[str, Any]) -> None:
    body = {"model": "tiny", "messages": MESSAGES, "guided_json": schema}
    answer = await edge.post("/v1/chat/completions", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "guided_json")
    assert not edge.site.placed


@pytest.mark.parametrize("wish", [{"guided_regex": "a+"}, {"top_k": 5}, {"logit_bias": {"3": 1}}, {"stop_token_ids": [3]}])
async def test_a_worker_that_would_leave_a_wish_out_gets_no_such_request(edge: Edge, wish: dict[str, Any]) -> None:
    edge.site.sampling_level = 0
    assert (await edge.post("/v1/completions", {"model": "tiny", "prompt": "hello", "seed": 1})).status_code == 200
    answer = await edge.post("/v1/completions", {"model": "tiny", "prompt": "hello"} | wish, x_prfaas_ttft_deadline_s="0.5")
    assert answer.status_code == 503
    assert "cannot sample as this request asks" in answer.json()["error"]["message"]
    cancelled = await edge.site.cancelled.get()
    assert cancelled.request_id == edge.site.generated[1].request_id
