"""Requests and comparisons that end-to-end tests share."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from openai import AsyncOpenAI

from prfaas.engine.model_reference import model_name
from prfaas.site.sites import Role
from prfaas.stack.stack import Stack


class Told(NamedTuple):
    """One greedy answer: equal tokens could be luck, equal log-probabilities are not."""

    tokens: list[str]
    logprobs: list[float]
    finish_reason: str | None
    prompt_tokens: int
    cached_tokens: int
    outcome: str
    prefill_site: str
    reason: str
    trace_id: str
    transfer: dict[str, Any]

    @property
    def answer(self) -> tuple[list[str], list[float], str | None, int]:
        return self.tokens, self.logprobs, self.finish_reason, self.prompt_tokens


@contextlib.asynccontextmanager
async def client_of(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    url = f"{stack.gateway_url('local')}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=520.0) as client:
        yield client


async def complete(stack: Stack, prompt: str | list[int], max_tokens: int = 12, **more: Any) -> Told:
    async with client_of(stack) as client:
        headers = {"x-prfaas-report": "1", "x-prfaas-ttft-deadline-s": "500"} | more.pop("headers", {})
        raw = await client.completions.with_raw_response.create(
            model=model_name(stack.description.model),
            prompt=prompt,
            max_tokens=max_tokens,
            temperature=0,
            logprobs=1,
            extra_headers=headers,
            **more,
        )
        body = raw.parse()
    choice = body.choices[0]
    assert choice.logprobs is not None and body.usage is not None
    return Told(
        tokens=choice.logprobs.tokens or [],
        logprobs=[value for value in choice.logprobs.token_logprobs or [] if value is not None],
        finish_reason=choice.finish_reason,
        prompt_tokens=body.usage.prompt_tokens,
        cached_tokens=(body.usage.prompt_tokens_details and body.usage.prompt_tokens_details.cached_tokens) or 0,
        outcome=raw.headers["x-prfaas-outcome"],
        prefill_site=raw.headers["x-prfaas-prefill-site"],
        reason=raw.headers["x-prfaas-reason"],
        trace_id=raw.headers.get("x-prfaas-trace-id", ""),
        transfer=(body.usage.model_extra or {})["prfaas"]["transfer"],
    )


async def use_policy(stack: Stack, name: str) -> None:
    """Starts the scheduler again where it has another policy."""
    scheduler = stack.process("local", Role.SCHEDULER)
    if scheduler.config["policy"] == name:
        return
    await scheduler.stop(60.0)
    await scheduler.configure({"policy": name}).spawn()
    await scheduler.wait_ready(120.0)
    await stack.wait_introduced()


def tokens_of(count: int, seed: int = 7) -> list[int]:
    """A prompt of an exact length, away from the special tokens at the low end of both vocabularies."""
    return [1000 + (index * index * 31 + index * seed * 17) % 40_000 for index in range(count)]
