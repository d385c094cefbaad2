"""`/tokenize` and `/detokenize` give the tokens that the endpoints that generate would send to a worker."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from prfaas import __version__
from prfaas.contracts.wire import unpack_tokens
from prfaas.secrets.tenants_file import Limits
from prfaas_gateway.large_requests import LARGE_BODY_BYTES
from prfaas_gateway.prompts import INLINE_CHARS
from tests.gateway.conftest import Edge, make_tenants, running_edge
from tests.gateway.tiny_tokenizer import BOS, WORDS

MESSAGES = [{"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "hello world"}]}]
GOING_ON = {"continue_final_message": True, "add_generation_prompt": False}
FILLS = {"on the loop": "", "on a thread": " " * (INLINE_CHARS + 1), "in the process": " " * (LARGE_BODY_BYTES + 1)}
"""Spaces, which the tokenizer drops: where a body of that size is read."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path_factory.mktemp("edge")) as edge:
        yield edge


async def tokens_of(edge: Edge, path: str, body: Any) -> list[int]:
    """Returns the tokens that a decode worker gets."""
    edge.site.generated.clear()
    answer = await edge.post(path, body)
    assert answer.status_code == 200, answer.text
    (generate,) = edge.site.generated
    return unpack_tokens(generate.token_ids)


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
@pytest.mark.parametrize(("path", "wishes"), [
    ("/v1/completions", {"prompt": "hello world Q"}),
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/chat/completions", {"messages": MESSAGES, "add_generation_prompt": False}),
    ("/v1/chat/completions", {"messages": MESSAGES, **GOING_ON}),
    ("/v1/chat/completions", {"messages": MESSAGES, "chat_template_kwargs": {"anything": True}}),
])  # fmt: skip
async def test_tokens_are_those_of_the_endpoints_that_generate(shared: Edge, path: str, wishes: Any, fill: str) -> None:
    body = {"model": "tiny", **wishes, "user": fill}
    expected = await tokens_of(shared, path, body)
    answer = await shared.post("/tokenize", body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"count": len(expected), "max_model_len": 100, "tokens": expected, "token_strs": None}


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
async def test_special_tokens_strings_and_the_way_back(shared: Edge, fill: str) -> None:
    plain = await shared.post("/tokenize", {"prompt": "hello" + fill, "add_special_tokens": False, "return_token_strs": True})
    assert plain.json() == {"count": 1, "max_model_len": 100, "tokens": [WORDS.index("hello")], "token_strs": ["hello"]}
    chat = {"messages": [{"role": "user", "content": "hello" + fill}], "add_special_tokens": True, "return_token_strs": True}
    assert (await shared.post("/tokenize", chat)).json()["token_strs"][:3] == ["<s>", "<s>", "user"]
    back = await shared.post("/detokenize", {"model": "tiny", "tokens": [BOS, WORDS.index("hello")], "user": fill})
    assert back.json() == {"prompt": "<s> hello"}


async def test_a_text_longer_than_the_context_is_counted(shared: Edge) -> None:
    for words in (150, 20_000):
        assert (await shared.post("/tokenize", {"prompt": "hello " * words})).json()["count"] == words + 1


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
@pytest.mark.parametrize(("path", "body", "status", "param", "code"), [
    ("/tokenize", {}, 400, "prompt", "missing_required_parameter"),
    ("/tokenize", {"prompt": "x", "messages": MESSAGES}, 400, "prompt", "invalid_value"),
    ("/tokenize", {"prompt": [1]}, 400, "prompt", "invalid_value"),
    ("/tokenize", {"prompt": "x", "strange": 1}, 400, "strange", "unknown_parameter"),
    ("/tokenize", {"prompt": "x", "model": "nope"}, 404, "model", "model_not_found"),
    ("/tokenize", {"messages": MESSAGES, "chat_template": "x"}, 400, "chat_template", "unsupported_parameter"),
    ("/tokenize", {"messages": MESSAGES, "continue_final_message": True}, 400, "continue_final_message", "invalid_value"),
    ("/tokenize", {"messages": [{"role": "user"}]}, 400, "messages[0].content", "missing_required_parameter"),
    ("/detokenize", {}, 400, "tokens", "missing_required_parameter"),
    ("/detokenize", {"tokens": [len(WORDS)]}, 400, "tokens", "invalid_value"),
    ("/detokenize", {"tokens": [-1]}, 400, "tokens[0]", "invalid_value"),
])  # fmt: skip
async def test_bad_bodies_are_refused_by_name(
    shared: Edge, path: str, body: Any, status: int, param: str, code: str, fill: str
) -> None:
    answer = await shared.post(path, {**body, "user": fill})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code)


async def test_keys_limits_and_bounds_hold_as_for_completions(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"small": Limits(requests_per_minute=2)})
    async with running_edge(tmp_path, tenants_file=path, max_body_bytes=1024) as edge:
        key = {"authorization": f"Bearer {keys['small']}"}
        assert (await edge.post("/tokenize", {"prompt": "x"})).status_code == 401
        assert (await edge.post("/detokenize", {"tokens": [1]}, authorization="Bearer wrong")).status_code == 401
        assert (await edge.post("/tokenize", {"prompt": "x" * 2000}, **key)).status_code == 413
        assert (await edge.post("/detokenize", {"tokens": [1]}, **key)).status_code == 200
        assert (await edge.post("/tokenize", {"prompt": "x"}, **key)).status_code == 429
        assert edge.metric("prfaas_gateway_responses_total", endpoint="tokenize", status="413") == 1
        assert (await edge.get("/version")).json() == {"version": __version__}


async def test_a_large_text_past_its_deadline_is_told_so(shared: Edge) -> None:
    answer = await shared.post("/tokenize", {"prompt": "hello " * 100_000}, x_prfaas_ttft_deadline_s="0.001")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "deadline")
