"""The two stacks of a soak, one with emulated engines and one with a real small model, and what their clients ask."""

import asyncio
import random
from typing import Any

import httpx
import msgspec

from load.chaos.traffic import TTFT_DEADLINE_S, Ask, Prompt, kinds_of, outcome, wrong_ask
from load.emulated_stack import MODEL, every_service_twice, right_answer, two_sites
from prfaas.site.sites import Description, Role
from prfaas.stack.free_port import free_port
from prfaas.stack.launch import DEMO, describe

REAL_MODEL = "smollm2-135m"
WRONG_SHARE = 0.05
_KEEP_LITTLE = {"prefix-cache-mib": 16}
"""A small prefix cache is full within minutes: what grows afterwards is no cache."""
_EMULATED_LENGTHS = ((60, 8), (300, 24), (700, 16), (1200, 48))
"""Prompt and answer tokens."""
_ROUNDS_TOGETHER = 3
_REAL_PROMPTS = (
    ("/v1/completions", "The capital of France is", 12),
    ("/v1/completions", "Once upon a time, in a land of rivers and mountains, " * 12, 16),
    ("/v1/chat/completions", "Name three colours.", 12),
    ("/v1/chat/completions", "Summarise this: the quick brown fox jumps over the lazy dog. " * 14, 16),
)


def emulated_sites() -> Description:
    found = two_sites(
        remote_workers=2, rate_mbit=200.0, time_scale=16.0, scheduler={"policy": "threshold", "threshold-tokens": 200}
    )
    few = {Role.DECODE_WORKER: _KEEP_LITTLE, Role.PREFILL_WORKER: _KEEP_LITTLE}
    return _with_config(every_service_twice(found, free_port()), few)


def real_sites() -> Description:
    """Computes in fp32: in 16 bits the other rows of a batch may tip a near tie, which is no fault's doing."""
    worker = {"engine": {"dtype": "float32"}} | _KEEP_LITTLE
    changes: dict[Role, dict[str, Any]] = {
        Role.GATEWAY: {"http-port": free_port()},  # one that is started again must be found at its address
        Role.SCHEDULER: {"threshold-tokens": 100},
        Role.DECODE_WORKER: worker,
        Role.PREFILL_WORKER: worker,
    }
    return _with_config(describe(DEMO, REAL_MODEL, None), changes)


def _with_config(description: Description, changes: dict[Role, dict[str, Any]]) -> Description:
    services = tuple(
        msgspec.structs.replace(service, config=service.config | changes.get(service.role, {}))
        for service in description.services
    )
    return msgspec.structs.replace(description, services=services)


class EmulatedAsks:
    """Prompts that no request had before. An emulated answer does not depend on how tokens are drawn."""

    def __init__(self, description: Description) -> None:
        self._description = description

    async def __call__(self, source: random.Random) -> Ask:
        if source.random() < WRONG_SHARE:
            return wrong_ask(MODEL, source)
        prompt_tokens, output_tokens = source.choice(_EMULATED_LENGTHS)
        sampling: dict[str, Any] = source.choice(({"temperature": 0}, {"temperature": 0.8, "seed": source.randrange(100)}))
        if source.random() < 0.5:
            token_ids = list(source.randbytes(prompt_tokens))
            path, fields = "/v1/completions", {"prompt": token_ids} | sampling
        else:
            content = "".join(source.choices("abcdefghijklmnopqrstuvwxyz ", k=prompt_tokens))
            token_ids = list(f"user: {content}\nassistant:".encode())
            path, fields = "/v1/chat/completions", {"messages": [{"role": "user", "content": content}]} | sampling
        prompt = Prompt(path=path, fields=fields, output_tokens=output_tokens)
        return kinds_of(MODEL, prompt, right_answer(self._description, token_ids, output_tokens), source)


class RealAsks:
    """A few prompts, greedy and seeded, whose answers without any fault are asked for first."""

    def __init__(self) -> None:
        self._known: list[tuple[Prompt, str]] = []

    async def learn(self, url: str) -> list[str]:
        """Asks for each answer alone, then for all at once. A draw at the very border of two tokens may fall on either side with
        other rows in its batch, without any fault: such a prompt is left out, and returned. Raises httpx.HTTPError."""
        made = [
            Prompt(path=path, fields=_fields(path, text) | sampling, output_tokens=output_tokens)
            for path, text, output_tokens in _REAL_PROMPTS
            for sampling in ({"temperature": 0}, {"temperature": 0.8, "seed": 7})
        ]
        async with httpx.AsyncClient(base_url=url, timeout=300.0) as client:
            answers = [{await _answer(client, prompt)} for prompt in made]
            for _ in range(_ROUNDS_TOGETHER):
                for known, answer in zip(answers, await asyncio.gather(*(_answer(client, each) for each in made)), strict=True):
                    known.add(answer)
        unsure = [str(prompt.fields) for prompt, known in zip(made, answers, strict=True) if len(known) > 1]
        self._known = [(prompt, known.pop()) for prompt, known in zip(made, answers, strict=True) if len(known) == 1]
        return unsure

    async def __call__(self, source: random.Random) -> Ask:
        if source.random() < WRONG_SHARE:
            return wrong_ask(REAL_MODEL, source)
        return kinds_of(REAL_MODEL, *source.choice(self._known), source)


def _fields(path: str, text: str) -> dict[str, Any]:
    return {"prompt": text} if path == "/v1/completions" else {"messages": [{"role": "user", "content": text}]}


async def _answer(client: httpx.AsyncClient, prompt: Prompt) -> str:
    body = {"model": REAL_MODEL, "max_tokens": prompt.output_tokens, "ignore_eos": True} | prompt.fields
    response = await client.post(prompt.path, json=body, headers={"x-prfaas-ttft-deadline-s": "300"})
    response.raise_for_status()
    choice = response.json()["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


async def check_right_answers(url: str, asks: EmulatedAsks) -> None:
    """Asks a few requests without a fault. Raises AssertionError where what counts as right is not what is answered."""
    source = random.Random(0)
    async with httpx.AsyncClient(base_url=url, timeout=TTFT_DEADLINE_S) as client:
        for _ in range(12):
            ask = await asks(source)
            ended = await outcome(client, ask)
            assert ended[0] in ("right", "cancelled", "refused"), f"{ask.kind} without a fault: {ended}"
