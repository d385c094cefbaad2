"""A model of one's own, a tiny random one in shards, served over two real sites: transformers' tokens, by each of its names."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
import torch
import transformers

from prfaas.engine.emulated_model import EOS_TOKEN_ID
from prfaas.site.sites import Role
from prfaas.stack.stack import Stack
from tests.e2e.conftest import describe
from tests.engine.tiny_models import CONTEXT_TOKENS, save_tiny

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]
OUTPUT_TOKENS = 12
NAMES = ("mine", "mine-too")
PENALTY = 1.3
"""Penalty of repetition: the model's own, which transformers' `generate` reads from the same file."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = save_tiny(tmp_path_factory.mktemp("models"), "qwen2-window", shard_bytes=100_000)
    (directory / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    settings = {"eos_token_id": EOS_TOKEN_ID, "do_sample": True, "temperature": 0.6, "repetition_penalty": PENALTY}
    (directory / "generation_config.json").write_bytes(msgspec.json.encode(settings))
    return directory


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def own_stack(model: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    description = describe(str(model), policy="threshold", threshold_tokens=100, dtype="auto")
    changes: dict[Role, dict[str, Any]] = {
        Role.GATEWAY: {"served-model-name": list(NAMES)},
        **{role: {"engine": {"chunk-tokens": 64}} for role in (Role.PREFILL_WORKER, Role.DECODE_WORKER)},
    }
    services = tuple(
        msgspec.structs.replace(service, config=service.config | changes.get(service.role, {}))
        for service in description.services
    )
    async with Stack(msgspec.structs.replace(description, services=services), tmp_path_factory.mktemp("stack")) as stack:
        yield stack


def prompt_of(tokens: int) -> str:
    return "".join(chr(97 + (index * index + index // 7) % 26) for index in range(tokens))


def greedy(model: Path, text: str) -> str:
    """Returns what transformers' own `generate` answers. The tokenizer's tokens are bytes."""
    plain: Any = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = torch.tensor([list(text.encode())])
    answer = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=OUTPUT_TOKENS, do_sample=False)
    return bytes(token for token in answer[0, ids.shape[1] :].tolist() if token < 256).decode(errors="replace")


@pytest.mark.parametrize("tokens", [2, 64, 65, 300, CONTEXT_TOKENS - OUTPUT_TOKENS])
async def test_an_answer_is_that_of_transformers_wherever_it_was_prefilled(own_stack: Stack, model: Path, tokens: int) -> None:
    body = {"model": NAMES[0], "prompt": prompt_of(tokens), "max_tokens": OUTPUT_TOKENS, "temperature": 0}
    async with httpx.AsyncClient(base_url=own_stack.gateway_url("local"), timeout=300) as client:
        answer = await client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-prfaas-prefill-site"] == ("remote" if tokens > 100 else "local")
        assert answer.headers["x-prfaas-sampling-defaults"] == f"repetition_penalty={PENALTY}"
        assert answer.json()["choices"][0]["text"] == greedy(model, prompt_of(tokens))


async def test_all_names_are_listed_and_answer_and_others_do_not(own_stack: Stack, model: Path) -> None:
    async with httpx.AsyncClient(base_url=own_stack.gateway_url("local"), timeout=300) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        assert [(each["id"], each["max_model_len"]) for each in listed] == [(name, CONTEXT_TOKENS) for name in NAMES]
        chat = {"messages": [{"role": "user", "content": "abc"}], "max_tokens": 2, "temperature": 0}
        for name in NAMES:
            answer = await client.post("/v1/chat/completions", json=chat | {"model": name})
            assert (answer.status_code, answer.json()["model"]) == (200, NAMES[0]), answer.text
            assert answer.json()["usage"]["prompt_tokens"] == 3
        for name in ("qwen2-window", str(model)):
            assert (await client.post("/v1/chat/completions", json=chat | {"model": name})).status_code == 404


async def test_more_tokens_than_the_rotary_table_has_are_refused(own_stack: Stack) -> None:
    body = {"model": NAMES[0], "prompt": prompt_of(CONTEXT_TOKENS), "max_tokens": 1}
    async with httpx.AsyncClient(base_url=own_stack.gateway_url("local"), timeout=300) as client:
        answer = await client.post("/v1/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
